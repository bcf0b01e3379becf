// A panel to take away: the picture with everything a reader needs beside it, or its numbers.

function fileName(panel, extension) {
  const plainer = (text) => text.replace(/[^\p{L}\p{N}._=-]+/gu, "-").replace(/^[-.]+|-+$/g, "");
  return `${plainer(page.title).slice(0, 80) || "run"}-${panel.spec.key}.${extension}`;
}

// What a picture alone cannot leave to the page: run, title, unit, legend, a white ground.
function picture(panel) {
  const { spec } = panel;
  const width = Math.max(panel.plot.clientWidth, 720);
  let [data, layout] = figure(panel, width);
  const lasts = new Map(data.map((trace, i) => [trace.name, i])); // a band and its line: the line
  data = data.map((trace, i) => {
    const named = trace.meta && trace.meta.role && trace.visible === true;
    return { ...trace, showlegend: Boolean(named && lasts.get(trace.name) === i) };
  });
  const names = data.filter((trace) => trace.showlegend).map((trace) => trace.name);
  const entry = 48 + 7 * Math.max(0, ...names.map((name) => plainText(name).length)); // px
  const abreast = Math.max(1, Math.floor(width / entry));
  const rows = names.length > 1 ? Math.ceil(names.length / abreast) : 0;
  const margin = { ...page.template.layout.margin, ...layout.margin };
  const [above, below] = [36, rows ? 22 * rows + 8 : 0];
  const height = layout.height + above + below;
  if (spec.unit && spec.extra.kind !== "layers") layout.yaxis.title = { text: escaped(spec.unit) };
  Object.assign(layout, {
    width,
    height,
    autosize: false,
    paper_bgcolor: page.paper,
    plot_bgcolor: page.paper,
    margin: { ...margin, t: margin.t + above, b: margin.b + below },
    title: {
      text: escaped(`${page.title} · ${spec.title}`),
      font: { size: 16 },
      x: 0,
      xref: "container",
      xanchor: "left",
      y: 1,
      yref: "container",
      yanchor: "top",
      pad: { t: 14, l: 16 },
      automargin: false,
    },
    showlegend: rows > 0,
    legend: {
      orientation: "h",
      x: 0,
      xref: "paper",
      y: 0,
      yref: "container",
      yanchor: "bottom",
      entrywidth: entry - 40,
      traceorder: "normal",
    },
  });
  return { data, layout, config: page.config };
}

function savePicture(panel) {
  const { data, layout, config } = picture(panel);
  const filename = fileName(panel, "png").replace(/\.png$/, "");
  const { width, height } = layout;
  const how = { format: "png", scale: 2, width, height, filename };
  return Plotly.downloadImage({ data, layout, config }, how);
}

const plainText = (html) =>
  new DOMParser().parseFromString(String(html), "text/html").body.textContent;

// The lines in sight as columns over their common x: [[name, Map of x to y]].
function columns(panel) {
  const [data] = figure(panel);
  const { kind, measures, names } = panel.spec.extra;
  if (kind === "layers") {
    const { rows } = chosenLayers(panel);
    const { x, z, bars, label, unit } = measures[panel.layers.measure];
    if (bars) return [[`${label} (${unit})`, new Map(rows.map((i) => [names[i], bars[i]]))]];
    const value = (v) => (v === null ? null : Number((10 ** v).toPrecision(4)));
    return rows.map((i) => [names[i], new Map(z[i].map((v, j) => [x[j], value(v)]))]);
  }
  const found = [];
  for (const trace of data) {
    const { x, y, meta, fill } = trace;
    if (trace.visible !== true || !x || (meta && meta.swatch === "band")) continue;
    const name = (meta && meta.label) || plainText(trace.name || panel.spec.title);
    if (fill === "toself") {
      const half = x.length / 2; // up along the high edge, back along the low one
      found.push([`${name}, high`, new Map(x.slice(0, half).map((at, i) => [at, y[i]]))]);
      found.push([`${name}, low`, new Map(x.slice(half).map((at, i) => [at, y[half + i]]))]);
    } else {
      found.push([name, new Map(x.map((at, i) => [at, y[i]]))]);
    }
  }
  return found;
}

// Text is quoted where it must be; a leading = + - @ would be a formula to a spreadsheet.
function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}

function table(panel) {
  const lines = columns(panel);
  const layered = panel.spec.extra.kind === "layers" && !panel.spec.linked;
  const title = panel.spec.layout.xaxis && panel.spec.layout.xaxis.title;
  const first = layered ? "layer" : plainText((title && title.text) || "step");
  const at = [...new Set(lines.flatMap(([, values]) => [...values.keys()]))];
  if (!layered) at.sort((a, b) => a - b);
  const rows = at.map((x) => [x, ...lines.map(([, values]) => values.get(x))]);
  return [[first, ...lines.map(([name]) => name)], ...rows]
    .map((row) => `${row.map(cell).join(",")}\n`)
    .join("");
}

function saveTable(panel) {
  const url = URL.createObjectURL(new Blob([table(panel)], { type: "text/csv" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = fileName(panel, "csv");
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
