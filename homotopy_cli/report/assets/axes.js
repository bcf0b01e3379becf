// Vertical axes: ticks of a log axis, heights that fit what is in sight.

function plain(value) {
  const text = Number(value.toPrecision(3));
  const long = text !== 0 && (text < 1e-3 || text >= 1e5);
  return long ? text.toExponential().replace("+", "") : String(text);
}

// Plotly's own labels on a log axis mix "10^-3" with bare 2s and 5s: write each in full.
function tidyLogAxes(data, layout) {
  const names = Object.keys(layout).filter((key) => /^yaxis\d*$/.test(key));
  for (const name of names) {
    const axis = layout[name];
    if (axis.type !== "log") continue;
    const id = name.replace("axis", "");
    let low = Infinity;
    let high = -Infinity;
    for (const trace of data) {
      if ((trace.yaxis || "y") !== id || trace.visible === "legendonly") continue;
      for (const y of trace.y || []) {
        if (y > 0 && y < low) low = y;
        if (y > high) high = y;
      }
    }
    if (axis.range) [low, high] = axis.range.map((edge) => 10 ** edge);
    const decades = Math.log10(high / low);
    if (!(decades > 0.5)) continue;
    const [bottom, top] = axis.domain || [0, 1];
    const room = Math.max(2, Math.floor(((top - bottom) * layout.height) / 34)); // labels
    const powers = Math.floor(Math.log10(high)) - Math.ceil(Math.log10(low)) + 1;
    const digits = decades * 3 < room ? [1, 2, 5] : powers < 2 ? [1, 3] : [1];
    const stride = Math.max(1, Math.ceil(powers / Math.min(room, 6)));
    const whole = digits.length === 1 ? Math.ceil : Math.floor; // 2 and 5 may lie before a power
    axis.tickmode = "array";
    axis.tickvals = [];
    for (let k = whole(Math.log10(low) - 1e-9); k <= Math.log10(high) + 1e-9; k += stride) {
      axis.tickvals.push(...digits.map((digit) => digit * 10 ** k));
    }
    axis.ticktext = axis.tickvals.map(plain);
  }
}

// Annotations on a log axis sit at log10 of their value; shapes do not.
function relevelled(spec, log) {
  const was = spec.layout.yaxis && spec.layout.yaxis.type === "log";
  return (spec.layout.annotations || []).map((note) => {
    if (note.yref !== "y" || was === log) return note;
    return { ...note, y: log ? Math.log10(note.y) : 10 ** note.y };
  });
}

// Data to the unit of an axis' range; NaN for what the axis cannot show.
function levelled(axis) {
  if (axis.type !== "log") return (value) => value ?? NaN;
  return (value) => (value > 0 ? Math.log10(value) : NaN);
}

// Every height that a trace shows between two steps; its line is cut at both edges.
function heights(trace, range, across, up) {
  const [left, right] = range;
  const x = trace.x.map(across);
  const y = trace.y.map(up);
  const seen = y.filter((value, i) => x[i] >= left && x[i] <= right && !Number.isNaN(value));
  if (trace.type === "bar") seen.push(0);
  if ((trace.mode || "lines").includes("lines")) {
    for (let i = 1; i < y.length; i += 1) {
      for (const edge of range) {
        const share = (edge - x[i - 1]) / (x[i] - x[i - 1]);
        const value = y[i - 1] + share * (y[i] - y[i - 1]);
        if (share > 0 && share < 1 && !Number.isNaN(value)) seen.push(value);
      }
    }
  }
  return seen;
}

// After a zoom each vertical axis spans what is in sight.
function fit(data, layout, range) {
  const across = levelled(layout.xaxis);
  for (const name of Object.keys(layout).filter((key) => /^yaxis\d*$/.test(key))) {
    const axis = layout[name];
    const id = name.replace("axis", "");
    const up = levelled(axis);
    const seen = data
      .filter((trace) => (trace.yaxis || "y") === id && trace.visible === true && trace.x)
      .flatMap((trace) => heights(trace, range, across, up));
    if (axis.visible === false || !seen.length) continue;
    const low = seen.reduce((a, b) => Math.min(a, b));
    const high = seen.reduce((a, b) => Math.max(a, b));
    const margin = 0.06 * (high - low) || 0.02 * Math.abs(low) || 0.1;
    Object.assign(axis, { range: [low - margin, high + margin], autorange: false });
  }
}
