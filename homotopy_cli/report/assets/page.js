// Inflates plotly.js, draws every panel, answers its buttons. No request leaves the page.

const root = document.documentElement;
const state = { plotted: 0, errors: [], violations: [] };
window.homotopy = state;
document.addEventListener("securitypolicyviolation", (event) => {
  state.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
addEventListener("error", (event) => state.errors.push(String(event.message)));
addEventListener("unhandledrejection", (event) => state.errors.push(String(event.reason)));

const page = JSON.parse(document.getElementById("homotopy-data").textContent);
const panels = page.panels.map((spec) => ({
  spec,
  plot: document.getElementById(`plot-${spec.key}`),
  section: document.getElementById(`p-${spec.key}`),
  hidden: new Set(),
  range: null,
  log: null,
  frame: null,
  layers: { measure: 0, filter: "", all: false },
}));
const darkQuery = matchMedia("(prefers-color-scheme: dark)");
const coarse = matchMedia("(pointer: coarse)").matches;
const PAPER = 660; // px: a panel's plot on A4 or Letter, one panel a row
let printing = false;

// A page that reloads itself keeps the reader's choice; a file: page may have no storage.
function remembered(theme) {
  try {
    if (theme) sessionStorage.setItem("homotopy-theme", theme);
    return sessionStorage.getItem("homotopy-theme");
  } catch {
    return null;
  }
}
const chosen = remembered();
if (chosen) root.dataset.theme = chosen;

const isDark = () =>
  !printing && (root.dataset.theme ? root.dataset.theme === "dark" : darkQuery.matches);

// Light colours are roles; a deep copy with other strings is the dark figure.
function themed(value) {
  if (typeof value === "string") return (isDark() && page.dark[value]) || value;
  if (Array.isArray(value)) {
    return value.length && typeof value[0] === "number" ? value : value.map(themed);
  }
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, themed(inner)]));
  }
  return value;
}

const escaped = (text) =>
  text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// What plotly draws, in light colours: the panel's data with the reader's choices.
function figure(panel, width = panel.plot.clientWidth) {
  const { spec } = panel;
  const layout = structuredClone(spec.layout);
  layout.template = page.template;
  layout.xaxis = layout.xaxis || {};
  layout.yaxis = layout.yaxis || {};
  let data = spec.data;
  if (spec.extra.kind === "layers") data = layerData(panel, layout);
  if (panel.frame !== null) {
    const frame = spec.extra.frames[panel.frame];
    data = [{ ...data[0], x: frame.x, y: frame.y }];
  }
  data = data.map((trace, i) => ({
    ...trace,
    hoverinfo: trace.hoverinfo || "all", // a lone trace would go without its name
    visible: panel.hidden.has(i) ? "legendonly" : true,
  }));
  if (width < 560) {
    layout.margin = { l: 44, r: 22, b: 38, t: 10, ...(layout.margin || {}) };
    if (spec.extra.kind !== "layers") layout.height = Math.round(layout.height * 0.85);
    if (data[0] && data[0].colorbar) data[0].showscale = false;
  }
  const range = panel.range || (spec.linked ? page.domain : null);
  if (range) layout.xaxis.range = [...range]; // plotly writes into it
  // A drag selects steps; heights follow by themselves.
  for (const name of Object.keys(layout)) {
    if (/^yaxis\d*$/.test(name)) layout[name].fixedrange = true;
  }
  if (panel.log !== null) {
    layout.yaxis.type = panel.log ? "log" : "linear";
    layout.annotations = relevelled(spec, panel.log);
    if (layout.yaxis.range) {
      delete layout.yaxis.range;
      layout.yaxis.autorange = true;
    }
  }
  if (panel.range && spec.extra.kind !== "layers") fit(data, layout, panel.range);
  const higher = nameMarks(layout, width);
  if (spec.extra.kind === "layers") layout.height += higher; // its rows keep their height
  tidyLogAxes(data, layout);
  layout.dragmode = coarse ? false : "zoom";
  layout.autosize = !printing;
  if (printing) layout.width = PAPER;
  return [data, layout];
}

async function draw(panel) {
  const [data, layout] = themed(figure(panel));
  const first = !panel.plot.classList.contains("js-plotly-plot");
  if (first) panel.plot.replaceChildren();
  else unpoint(panel, false);
  panel.plot.style.minHeight = `${layout.height}px`;
  await Plotly.react(panel.plot, data, layout, page.config);
  if (first) {
    state.plotted += 1;
    root.dataset.plotted = String(state.plotted);
    connect(panel);
  }
}

function press(button, on) {
  button.setAttribute("aria-pressed", String(on));
}

function listen(panel) {
  const { section, spec } = panel;
  for (const button of section.querySelectorAll(".legend button")) button.disabled = false;
  section.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.traces) {
      const shown = button.getAttribute("aria-pressed") !== "true";
      press(button, shown);
      for (const i of button.dataset.traces.split(",").map(Number)) {
        if (shown) panel.hidden.delete(i);
        else panel.hidden.add(i);
      }
    } else if (button.dataset.act === "log") {
      panel.log = button.getAttribute("aria-pressed") !== "true";
      press(button, panel.log);
    } else if (button.dataset.act === "reset") {
      zoom(panel, null);
      return;
    } else if (button.dataset.act === "png") {
      savePicture(panel);
      return;
    } else if (button.dataset.act === "csv") {
      saveTable(panel);
      return;
    } else if (button.dataset.act === "all") {
      panel.layers.all = button.getAttribute("aria-pressed") !== "true";
      press(button, panel.layers.all);
    } else if (button.dataset.measure !== undefined) {
      panel.layers.measure = Number(button.dataset.measure);
      for (const sibling of button.parentElement.children) press(sibling, sibling === button);
    } else {
      return;
    }
    draw(panel);
  });
  const filter = section.querySelector(".filter input");
  if (filter) {
    filter.addEventListener("input", () => {
      panel.layers.filter = filter.value;
      draw(panel);
    });
  }
  const slider = section.querySelector(".slider input");
  if (slider) {
    slider.addEventListener("input", () => {
      panel.frame = Number(slider.value);
      const { step } = spec.extra.frames[panel.frame];
      section.querySelector(".slider output").textContent = step;
      slider.setAttribute("aria-valuetext", `step ${step}`);
      draw(panel);
    });
  }
}

const redraw = () => panels.filter((panel) => panel.drawn).forEach(draw);

function chrome() {
  darkQuery.addEventListener("change", redraw);
  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remembered(root.dataset.theme);
    redraw();
  });
  addEventListener("beforeprint", () => {
    printing = true;
    redraw();
  });
  addEventListener("afterprint", () => {
    printing = false;
    redraw();
  });
  const entries = new Map(
    [...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]),
  );
  const seen = new IntersectionObserver(
    (changes) => {
      for (const change of changes) {
        if (!change.isIntersecting) continue;
        for (const a of entries.values()) a.removeAttribute("aria-current");
        const current = entries.get(change.target.id);
        if (current) current.setAttribute("aria-current", "true");
      }
    },
    { rootMargin: "-15% 0px -75% 0px" },
  );
  for (const id of entries.keys()) {
    const target = document.getElementById(id);
    if (target) seen.observe(target);
  }
}

async function loadPlotly() {
  if (!("DecompressionStream" in window)) {
    throw new Error("this browser cannot inflate the drawing code (no DecompressionStream)");
  }
  const text = document.getElementById("plotly-gzip").textContent.trim();
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const code = await new Response(stream).text();
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  try {
    await new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = url;
      script.onload = done;
      script.onerror = () => failed(new Error("the drawing code did not load"));
      document.head.append(script);
    });
  } finally {
    URL.revokeObjectURL(url);
  }
}

async function main() {
  chrome();
  if (!panels.length) return;
  try {
    await loadPlotly();
  } catch (error) {
    const notice = document.getElementById("notice");
    notice.textContent = `Interactive charts are off: ${error.message}. Numbers, tables and static curves are complete.`;
    notice.hidden = false;
    state.errors.push(error.message);
    return;
  }
  root.classList.add("live");
  for (const panel of panels) {
    try {
      await draw(panel);
      panel.drawn = true;
      listen(panel);
    } catch (error) {
      state.errors.push(`${panel.spec.key}: ${error.message}`);
    }
    await new Promise((next) => setTimeout(next));
  }
  root.dataset.done = "true";
}

main();
