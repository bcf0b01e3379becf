// Panels that share the step axis: one zoom, one cursor. Others stand alone.

function peers(panel) {
  return panel.spec.linked ? panels.filter((each) => each.spec.linked && each.drawn) : [panel];
}

// null: the whole axis. Heights follow what is in sight: see `fit`.
function zoom(panel, range) {
  for (const each of peers(panel)) {
    each.range = range;
    each.section.querySelector("[data-act=reset]").hidden = range === null;
    draw(each);
  }
}

function connect(panel) {
  const { plot } = panel;
  plot.on("plotly_relayout", (change) => {
    if (!Object.keys(change).some((key) => key.startsWith("xaxis.range"))) return;
    zoom(panel, [...plot._fullLayout.xaxis.range]);
  });
  plot.on("plotly_doubleclick", () => zoom(panel, null));
  plot.on("plotly_hover", (event) => {
    if (!plot.matches(":hover")) return; // a follower's own box also says that it hovers
    const pointer = event.xvals ? event.xvals[0] : event.points[0].x;
    const away = (step) => Math.abs(step - pointer);
    const at = event.points.map(({ x }) => x).reduce((a, b) => (away(b) < away(a) ? b : a));
    for (const each of peers(panel)) point(each, at, each !== panel);
  });
  plot.on("plotly_unhover", () => {
    for (const each of peers(panel)) unpoint(each, each !== panel);
  });
}

function inView(element) {
  const box = element.getBoundingClientRect();
  return box.bottom > 0 && box.top < innerHeight;
}

// A line at one step of the panel; a follower also opens its box there.
function point(panel, at, follower) {
  const { xaxis, _size, _plots, hovermode } = panel.plot._fullLayout;
  if (!inView(panel.plot) || (hovermode === "closest" && !panel.spec.linked)) return;
  let line = panel.plot.querySelector(".cursor");
  if (!line) {
    line = document.createElement("div");
    line.className = "cursor";
    panel.plot.append(line);
  }
  const within = xaxis.d2p(at);
  line.hidden = !(within >= 0 && within <= xaxis._length);
  line.style.cssText = `left:${xaxis._offset + within}px;top:${_size.t}px;height:${_size.h}px`;
  if (!follower || panel.spec.extra.kind === "layers") return;
  const rows = Object.keys(_plots || {});
  const shown = rows.filter((id) => panel.plot._fullLayout[axisName(id)].visible !== false);
  Plotly.Fx.hover(panel.plot, { xval: at, xpx: within }, shown);
}

const axisName = (id) => `yaxis${id.split("y")[1]}`;

function unpoint(panel, follower) {
  const line = panel.plot.querySelector(".cursor");
  if (line) line.hidden = true;
  if (follower && panel.spec.extra.kind !== "layers") Plotly.Fx.unhover(panel.plot);
}
