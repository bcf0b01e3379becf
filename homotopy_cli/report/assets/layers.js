// The heat map of layers: which rows, their colours, their labels.

function chosenLayers(panel) {
  const { names, shown, measures } = panel.spec.extra;
  const { filter, all, measure } = panel.layers;
  const wanted = filter.trim().toLowerCase();
  const { order } = measures[measure]; // the layers that have this measure, worst first
  const rows = order.filter((i) => names[i].toLowerCase().includes(wanted));
  return {
    rows: wanted || all ? rows : rows.slice(0, shown),
    matching: rows.length,
    total: order.length,
  };
}

// Colour is log10 of the value; the bar says the value: 1, 2, 5, 10 or decades only.
function decadeTicks(z, height) {
  const known = z.flat().filter((v) => v !== null);
  if (!known.length) return {};
  const low = known.reduce((a, b) => Math.min(a, b));
  const high = known.reduce((a, b) => Math.max(a, b));
  const digits = high - low < 2.5 ? [1, 2, 5] : [1];
  const stride = Math.max(1, Math.ceil((high - low) / 8));
  const all = [];
  for (let decade = Math.floor(low); decade <= Math.ceil(high); decade += stride) {
    for (const digit of digits) {
      const at = decade + Math.log10(digit);
      if (at >= low - 1e-9 && at <= high + 1e-9) all.push(at);
    }
  }
  const apart = ((high - low) * 14) / height; // px of a label
  const tickvals = [];
  for (const at of all.reverse()) {
    if (!tickvals.length || tickvals.at(-1) - at >= apart) tickvals.push(at);
  }
  return { tickmode: "array", tickvals, ticktext: tickvals.map((v) => plain(10 ** v)) };
}

function layerData(panel, layout) {
  const extra = panel.spec.extra;
  const measure = extra.measures[panel.layers.measure];
  const { rows, matching, total } = chosenLayers(panel);
  const full = rows.map((i) => escaped(extra.names[i]));
  layout.height = extra.frameHeight + extra.rowHeight * Math.max(rows.length, 1);
  Object.assign(layout.yaxis, {
    tickvals: rows.map((_, j) => j),
    ticktext: rows.map((i) => escaped(extra.short[i])),
    range: [rows.length - 0.5, -0.5],
    autorange: false,
  });
  const output = panel.section.querySelector(".matched");
  output.textContent =
    rows.length < total ? `${rows.length} of ${total} layers` : "";
  if (!matching) output.textContent = `no layer matches “${panel.layers.filter.trim()}”`;
  const trace = { ...panel.spec.data[0], y: rows.map((_, j) => j) };
  if (measure.bars) {
    layout.xaxis = { ...layout.xaxis, title: { text: `${measure.label} (${measure.unit})` } };
    return [{ ...trace, x: rows.map((i) => measure.bars[i]), customdata: full }];
  }
  const z = rows.map((i) => measure.z[i]);
  const colorbar = { ...trace.colorbar, ...decadeTicks(z, extra.rowHeight * rows.length) };
  colorbar.title = { ...colorbar.title, text: rows.length > 5 ? measure.label : "" };
  return [
    {
      ...trace,
      x: measure.x,
      z,
      customdata: full.map((name) => z[0].map((_, j) => `${name}<br>step ${measure.x[j]}`)),
      text: z.map((row) => row.map((v) => (v === null ? "" : plain(10 ** v)))),
      hovertemplate: `%{customdata}: ${measure.label} %{text}<extra></extra>`,
      colorbar,
    },
  ];
}
