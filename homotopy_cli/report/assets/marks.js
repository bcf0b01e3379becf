// Marked steps by name above the plot: the gravest first, none over another.

// Returns how much higher the margin above the plot became, px.
function nameMarks(layout, width) {
  const marks = (layout.shapes || []).filter((shape) => shape.name);
  if (!marks.length) return 0;
  const margin = { ...page.template.layout.margin, ...layout.margin };
  const length = width - margin.l - margin.r;
  const [left, right] = layout.xaxis.range;
  const titled = (layout.annotations || []).some((note) => note.yref === "paper" && note.y === 1);
  const taken = [];
  const names = [];
  for (const { name, x0, line } of marks) {
    const at = ((x0 - left) / (right - left)) * length;
    if (at < 0 || at > length) continue;
    const half = 3.2 * plainText(name).length + 5; // px, at 11 px of a letter
    const centre = Math.min(Math.max(at, half), length - half);
    if (taken.some((other) => Math.abs(other.centre - centre) < other.half + half)) continue;
    taken.push({ centre, half });
    names.push({
      xref: "x",
      x: x0,
      xshift: centre - at,
      yref: "paper",
      y: 1,
      yanchor: "bottom",
      yshift: titled ? 15 : 0, // above the name of the first row
      text: name,
      showarrow: false,
      borderpad: 0,
      font: { size: 11, color: line.color },
    });
  }
  const higher = titled ? 15 : 8;
  layout.annotations = [...(layout.annotations || []), ...names];
  layout.margin = { ...margin, t: margin.t + higher };
  return higher;
}
