// Inflates plotly.js, draws every panel, links their axes. No request leaves the page.
"use strict";
(() => {
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

  function plain(value) {
    const text = Number(value.toPrecision(3));
    const long = text !== 0 && (text < 1e-3 || text >= 1e5);
    return long ? text.toExponential().replace("+", "") : String(text);
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

  function figure(panel) {
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
      visible: panel.hidden.has(i) ? "legendonly" : true,
    }));
    const narrow = panel.plot.clientWidth < 560;
    if (narrow) {
      layout.margin = { l: 44, r: 22, b: 38, t: 10, ...(layout.margin || {}) };
      if (spec.extra.kind !== "layers") layout.height = Math.round(layout.height * 0.85);
      if (data[0] && data[0].colorbar) data[0].showscale = false;
    }
    if (spec.linked) {
      layout.xaxis.range = [...(panel.range || page.domain)]; // plotly writes into it
    }
    // Zoom selects steps; heights keep their scale, and their ticks.
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
    tidyLogAxes(data, layout);
    layout.dragmode = coarse ? false : "zoom";
    layout.uirevision = spec.key;
    layout.autosize = !printing;
    if (printing) layout.width = PAPER;
    panel.plot.style.minHeight = `${layout.height}px`;
    return [themed(data), themed(layout)];
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

  async function draw(panel) {
    const [data, layout] = figure(panel);
    const first = !panel.plot.classList.contains("js-plotly-plot");
    if (first) panel.plot.replaceChildren();
    await Plotly.react(panel.plot, data, layout, page.config);
    if (first) {
      state.plotted += 1;
      root.dataset.plotted = String(state.plotted);
      if (panel.spec.linked) link(panel);
      else panel.plot.on("plotly_relayout", (change) => offerReset(panel, change));
    }
  }

  function offerReset(panel, change) {
    const button = panel.section.querySelector("[data-act=reset]");
    const keys = Object.keys(change).join(" ");
    if (/range\[0\]|\.range/.test(keys)) button.hidden = false;
    if (/autorange/.test(keys)) button.hidden = true;
  }

  const others = (panel) => panels.filter((p) => p !== panel && p.spec.linked && p.drawn);

  function link(panel) {
    const { plot } = panel;
    plot.on("plotly_relayout", (change) => {
      if (panel.following) return;
      offerReset(panel, change);
      let range;
      if (change["xaxis.range[0]"] !== undefined) {
        range = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
      } else if (change["xaxis.autorange"]) {
        range = null;
      } else {
        return;
      }
      panel.range = range;
      if (range === null) follow(panel, null);
      for (const other of others(panel)) follow(other, range);
    });
    plot.on("plotly_hover", (event) => {
      if (!plot.matches(":hover")) return;
      const at = event.points[0].x;
      for (const other of others(panel)) point(other, at);
    });
    plot.on("plotly_unhover", () => {
      for (const other of others(panel)) unpoint(other);
    });
  }

  async function follow(panel, range) {
    panel.range = range;
    panel.following = true;
    panel.section.querySelector("[data-act=reset]").hidden = range === null;
    await Plotly.relayout(panel.plot, { "xaxis.range": [...(range || page.domain)] });
    panel.following = false;
  }

  function inView(element) {
    const box = element.getBoundingClientRect();
    return box.bottom > 0 && box.top < innerHeight;
  }

  function point(panel, at) {
    if (!inView(panel.plot)) return;
    if (panel.spec.extra.kind !== "layers") {
      const rows = Object.keys(panel.plot._fullLayout._plots || {});
      const shown = rows.filter((id) => panel.plot._fullLayout[axisName(id)].visible !== false);
      Plotly.Fx.hover(panel.plot, { xval: at }, shown);
      return;
    }
    const layout = panel.plot._fullLayout;
    let line = panel.plot.querySelector(".cursor");
    if (!line) {
      line = document.createElement("div");
      line.className = "cursor";
      panel.plot.append(line);
    }
    const x = layout.xaxis._offset + layout.xaxis.l2p(at);
    const inside = x >= layout.xaxis._offset && x <= layout.xaxis._offset + layout.xaxis._length;
    line.hidden = !inside;
    line.style.cssText =
      `left:${x}px;top:${layout.yaxis._offset}px;height:${layout.yaxis._length}px`;
  }

  const axisName = (id) => `yaxis${id.split("y")[1]}`;

  function unpoint(panel) {
    const line = panel.plot.querySelector(".cursor");
    if (line) line.hidden = true;
    if (panel.spec.extra.kind !== "layers") Plotly.Fx.unhover(panel.plot);
  }

  function press(button, on) {
    button.setAttribute("aria-pressed", String(on));
  }

  function listen(panel) {
    const { section, spec } = panel;
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
        for (const other of spec.linked ? panels.filter((p) => p.spec.linked) : [panel]) {
          other.range = null;
          other.section.querySelector("[data-act=reset]").hidden = true;
          const change = other.spec.linked
            ? { "xaxis.range": [...page.domain] }
            : { "xaxis.autorange": true };
          other.following = true;
          Plotly.relayout(other.plot, change).then(() => (other.following = false));
        }
        return;
      } else if (button.dataset.act === "png") {
        Plotly.downloadImage(panel.plot, { format: "png", scale: 2, filename: spec.key });
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
})();
