"""The page in a real browser, over file://, with every host unresolvable."""

import json

import pytest
import report_samples as samples
from chromium_pipe import Page
from test_report_fuzz import HOSTILE

from homotopy_cli.report.page import render

pytestmark = pytest.mark.browser

# What counts as a mark: a line, a point, a bar or an image of a heat map, with some extent.
MARKS = """[...document.querySelectorAll('.plot')].map((plot) => [plot.id, [
  ...plot.querySelectorAll('.scatterlayer path.js-line'),
  ...plot.querySelectorAll('.scatterlayer path.point'),
  ...plot.querySelectorAll('.barlayer path'),
  ...plot.querySelectorAll('.heatmaplayer image'),
].filter((mark) => {
  const box = mark.getBoundingClientRect();
  return box.width > 0 || box.height > 0;
}).length])"""


NAMES = ("run", "baseline", "plain", "probe", "compare", "empty", "seeds")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("name", NAMES)
def test_every_panel_is_drawn_and_nothing_complains(opened, pages, name, width, dark):
    page = opened(name, width=width, dark=dark, mobile=width < 500)
    state = json.loads(page.run("JSON.stringify(window.homotopy)"))
    assert (state["errors"], state["violations"]) == ([], [])
    assert page.faults() == []
    assert page.requests() == []
    assert page.file_requests() == [(pages / f"{name}.html").resolve().as_uri()]
    marks = dict(page.run(MARKS))
    assert state["plotted"] == len(marks)
    assert {key: n for key, n in marks.items() if n == 0} == {}
    assert (len(marks) == 0) == (name == "empty")
    assert page.run("document.documentElement.scrollWidth") == width, "scrolls sideways"
    assert "Share chart" not in page.run("document.documentElement.outerHTML")


def overflowing(page):
    """Texts of a plot that stick out of it, and labels of one axis that overlap each other."""
    return page.run("""(() => {
      const found = [];
      for (const plot of document.querySelectorAll('.plot')) {
        const frame = plot.getBoundingClientRect();
        for (const text of plot.querySelectorAll('svg text')) {
          const box = text.getBoundingClientRect();
          if (!text.textContent.trim() || box.width === 0) continue;
          if (box.left < frame.left - 1 || box.right > frame.right + 1)
            found.push(`${plot.id}: ${text.textContent} sticks out`);
        }
        for (const axis of ['.xaxislayer-above', '.yaxislayer-above']) {
          const boxes = [...plot.querySelectorAll(`${axis} .xtick, ${axis} .ytick`)]
            .map((t) => [t.textContent, t.getBoundingClientRect()]);
          boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
            if (p.width && q.width && p.left < q.right - 1 && q.left < p.right - 1
                && p.top < q.bottom - 4 && q.top < p.bottom - 4)
              found.push(`${plot.id}: ${a} over ${b}`);
          }));
        }
      }
      return found;
    })()""")


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("name", ["run", "baseline", "probe", "compare", "seeds"])
def test_no_label_is_cut_off_or_overlaps(opened, name, width):
    assert overflowing(opened(name, width=width, mobile=width < 500)) == []


def test_hovering_one_panel_points_at_the_same_step_in_the_others(opened):
    page = opened("run", height=1400)
    box = page.box("#plot-loss")
    page.mouse("mouseMoved", box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.5)
    page.mouse("mouseMoved", box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    texts = """(key) => [...document.querySelectorAll(`#plot-${key} .hoverlayer text`)]
      .map((t) => t.textContent).join(' ')"""
    loss = page.wait_for(f"({texts})('loss')")
    lr = page.wait_for(f"({texts})('lr')")
    word, step = loss.split()[:2]
    assert word == "step" and 250 < int(step) < 350
    assert lr.split()[:2] == [word, step]
    assert "used" in lr and "schedule" in lr
    page.mouse("mouseMoved", 5, 5)
    page.wait_for(f"!({texts})('lr')")


def test_zooming_one_panel_zooms_all_and_reset_returns(opened):
    page = opened("run")
    before = page.run("document.getElementById('plot-lr')._fullLayout.xaxis.range")
    box = page.box("#plot-loss")
    page.drag(box["x"] + 300, box["x"] + 500, box["y"] + 120)
    ranges = """['loss', 'lr', 'edge', 'norms', 'layers', 'overhead'].map((key) =>
      document.getElementById(`plot-${key}`)._fullLayout.xaxis.range.map(Math.round).join())"""
    whole = f"{before[0]:.0f},{before[1]:.0f}"
    page.wait_for(f"new Set({ranges}).size === 1 && {ranges}[0] !== '{whole}'")
    low, high = (int(x) for x in page.run(ranges)[0].split(","))
    assert 0 < low < high < 600
    page.run("document.querySelector('#p-edge [data-act=reset]').click()")
    page.wait_for(f"{ranges}.every((r) => r === '{whole}')")
    assert page.run("document.querySelectorAll('[data-act=reset]:not([hidden])').length") == 0
    assert page.faults() == []


def test_the_slider_walks_through_the_spectra(opened):
    page = opened("run")
    page.box("#p-spectrum .slider input")
    page.run("document.querySelector('#p-spectrum .slider input').focus()")
    widest = "document.getElementById('plot-spectrum').data[0].x.at(-1)"
    last = page.run(widest)
    for _ in range(8):
        for kind in ("keyDown", "keyUp"):
            page.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key="ArrowLeft",
                code="ArrowLeft",
                windowsVirtualKeyCode=37,
            )
    page.wait_for("document.querySelector('#p-spectrum .slider output').textContent === '0'")
    page.wait_for(f"{widest} > {last * 3}")


def test_layers_can_be_filtered_switched_and_shown_all(opened):
    page = opened("run")
    rows = "document.getElementById('plot-layers').data[0].z.length"
    assert page.run(rows) == 24
    page.run("document.querySelector('#p-layers [data-act=all]').click()")
    page.wait_for(f"{rows} === 33")
    page.run(
        "(() => { const box = document.querySelector('#p-layers input'); box.value = 'ATTN.qkv';"
        "box.dispatchEvent(new Event('input')); })()"
    )
    page.wait_for(f"{rows} === 5")
    assert page.run("document.querySelector('#p-layers .matched').textContent") == "5 of 33 layers"
    page.run(
        "(() => { const box = document.querySelector('#p-layers input'); box.value = '<zz>';"
        "box.dispatchEvent(new Event('input')); })()"
    )
    page.wait_for("document.querySelector('#p-layers .matched').textContent.includes('no layer')")
    page.run(
        "(() => { const box = document.querySelector('#p-layers input'); box.value = '';"
        "box.dispatchEvent(new Event('input')); })()"
    )
    top = "document.getElementById('plot-layers').data[0].z[0].at(-1)"
    before = page.run(top)
    page.run("document.querySelectorAll('#p-layers [data-measure]')[1].click()")
    page.wait_for(f"{top} !== {before}")
    page.box("#p-component-layers")
    drawn = "document.getElementById('plot-component-layers').layout.yaxis.ticktext.join()"
    assert "attn" in page.run(drawn) and "ln_" not in page.run(drawn)
    page.run("document.querySelectorAll('#p-component-layers [data-measure]')[2].click()")
    page.wait_for(f"{drawn}.includes('ln_') && !{drawn}.includes('attn')")
    assert page.faults() == []


def test_log_switch_and_legend_change_what_is_drawn(opened):
    page = opened("run")
    kind = "document.getElementById('plot-edge')._fullLayout.yaxis.type"
    assert page.run(kind) == "linear"
    page.run("document.querySelector('#p-edge [data-act=log]').click()")
    page.wait_for(f"{kind} === 'log'")
    labels = page.run(
        "[...document.querySelectorAll('#plot-edge .annotation-text')].map((t) => {"
        "const a = t.getBoundingClientRect();"
        "const b = document.getElementById('plot-edge').getBoundingClientRect();"
        "return a.top >= b.top && a.bottom <= b.bottom; })"
    )
    assert labels == [True] * 3, "edge, target and spike stay in sight on a log axis"
    shown = "document.querySelectorAll('#plot-lr .scatterlayer .trace').length"
    before = page.run(shown)
    page.run("document.querySelector('#p-lr .legend button').click()")
    page.wait_for(f"{shown} === {before - 1}")
    assert page.run("document.querySelector('#p-lr .legend button').ariaPressed") == "false"


def test_the_theme_follows_the_system_and_the_button(opened):
    page = opened("run")
    stroke = "document.querySelector('#plot-kappa .js-line').style.stroke"
    light = page.run(stroke)
    page.send(
        "Emulation.setEmulatedMedia",
        features=[{"name": "prefers-color-scheme", "value": "dark"}],
    )
    page.wait_for(f"{stroke} !== {json.dumps(light)}")
    dark = page.run(stroke)
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 22)"
    page.run("document.getElementById('theme').click()")
    page.wait_for(f"{stroke} === {json.dumps(light)}")
    page.run("document.getElementById('theme').click()")
    page.wait_for(f"{stroke} === {json.dumps(dark)}")


@pytest.mark.parametrize("name", ["run", "compare", "seeds"])
def test_with_scripts_blocked_numbers_tables_and_curves_remain(browser, pages, tmp_path, name):
    page = Page(browser, pages / f"{name}.html", scripts=False)
    page.screenshot(tmp_path / "off.png")
    document = page.send("DOM.getDocument", depth=-1)["root"]["nodeId"]

    def count(selector):
        found = page.send("DOM.querySelectorAll", nodeId=document, selector=selector)
        return len(found["nodeIds"])

    assert count(".static") == count(".plot") >= 7
    assert count(".legend button") == count(".legend button:disabled")
    for dead in (".tools", ".controls", ".slider"):
        for node in page.send("DOM.querySelectorAll", nodeId=document, selector=dead)["nodeIds"]:
            page.send("CSS.enable")
            style = page.send("CSS.getComputedStyleForNode", nodeId=node)["computedStyle"]
            look = {entry["name"]: entry["value"] for entry in style}
            assert look["display"] == "none" or look["visibility"] == "hidden", dead
    assert count(".js-plotly-plot") == 0
    assert count("noscript .notice") == 1
    box = page.send(
        "DOM.getBoxModel",
        nodeId=page.send("DOM.querySelector", nodeId=document, selector="#plot-loss .static")[
            "nodeId"
        ],
    )
    assert box["model"]["width"] > 600 and box["model"]["height"] > 150
    assert (tmp_path / "off.png").stat().st_size > 50_000
    page.close()


def test_a_browser_that_cannot_inflate_says_so_and_keeps_the_static_page(opened):
    page = opened("run", before="delete window.DecompressionStream")
    notice = page.run("document.getElementById('notice').textContent")
    assert notice.startswith("Interactive charts are off: this browser cannot inflate")
    assert page.run("document.getElementById('notice').hidden") is False
    assert page.run("document.querySelectorAll('.static').length") >= 7


def test_hostile_names_do_not_run_or_become_elements(browser, tmp_path):
    from dataclasses import replace

    log = samples.transformer_log(n=60)
    evil = '<img src=x onerror="window.pwned=1"></script><script>window.pwned=1</script>'
    log = replace(
        log,
        attrs={"run_id": evil, "status": evil},
        layers=tuple(f"{evil}{i}{HOSTILE[i % len(HOSTILE)]}" for i in range(33)),
        provenance={"recipe_source": evil, "recipe_resolved": {"name": evil}},
        notes=(evil,),
    )
    file = tmp_path / "evil.html"
    file.write_text(render([log, log], title=evil), encoding="utf-8")
    one = tmp_path / "evil1.html"
    one.write_text(render([log], title=evil), encoding="utf-8")
    for path in (file, one):
        page = Page(browser, path)
        assert page.run("window.pwned") is None
        assert page.run("document.querySelectorAll('img, main script').length") == 0
        assert page.faults() == [] and page.requests() == []
        page.close()


def test_a_million_rows_draw_within_seconds_and_show_the_spike(browser, tmp_path):
    import time
    from dataclasses import replace

    import numpy as np

    n = 1_000_000
    kappa = 1 + np.random.default_rng(0).random(n)
    kappa[654_321] = 1e6
    log = replace(samples.plain_log(), step=np.arange(n), probe_step=np.arange(n))
    log = replace(log, steps={"loss": np.linspace(3, 1, n)}, probes={"kappa": kappa})
    file = tmp_path / "million.html"
    file.write_text(render([log]), encoding="utf-8")
    start = time.monotonic()
    page = Page(browser, file)
    assert time.monotonic() - start < 30
    top = page.run(
        "(() => { const box = document.querySelector('#plot-kappa .js-line').getBBox();"
        "return [box.height, document.querySelector('#plot-kappa').clientHeight]; })()"
    )
    assert top[0] > 0.6 * top[1], "the spike spans the panel"
    page.close()


def test_a_watched_page_reloads_its_file_and_keeps_the_theme(browser, tmp_path):
    from dataclasses import replace

    def written(n, status, refresh):
        log = replace(samples.transformer_log(n=n), attrs={"status": status, "run_id": "live"})
        file.write_text(render([log], refresh=refresh), encoding="utf-8")

    file = tmp_path / "live.html"
    written(60, "running", 5)
    page = Page(browser, file)
    assert "Step 59." in page.run("document.querySelector('.live-note').textContent")
    page.run("document.getElementById('theme').click()")
    written(90, "finished", None)
    page.wait_for("!document.querySelector('.live-note') && document.documentElement?.dataset.done")
    assert page.run("document.querySelector('h1').textContent").endswith(" in 90 steps.")
    assert page.run("document.documentElement.dataset.theme") == "dark"
    assert page.faults() == [] and page.requests() == []
    page.close()


def test_the_band_of_an_arm_is_filled_and_its_button_hides_both(opened):
    page = opened("seeds")
    shown = "document.querySelectorAll('#plot-loss .scatterlayer .trace').length"
    assert page.run(shown) == 6
    assert page.run("document.querySelectorAll('#plot-loss .js-fill').length") == 3
    page.run("document.querySelector('#p-loss .legend button').click()")
    page.wait_for(f"{shown} === 4")


def test_print_uses_light_colours_and_hides_the_controls(opened):
    page = opened("run", dark=True)
    page.send("Emulation.setEmulatedMedia", media="print")
    assert page.run("getComputedStyle(document.querySelector('.side')).display") == "none"
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.run("dispatchEvent(new Event('beforeprint'))")
    page.wait_for(
        "document.querySelector('#plot-kappa .js-line').style.stroke === 'rgb(115, 72, 189)'"
    )
    widths = "[...document.querySelectorAll('.plot .main-svg')].map((s) => s.clientWidth)"
    page.wait_for(f"{widths}.every((w) => w === 660)")  # fits A4 and Letter
    page.send("Emulation.setEmulatedMedia", media="screen")
    page.run("dispatchEvent(new Event('afterprint'))")
    page.wait_for("document.querySelector('#plot-loss .main-svg').clientWidth > 1000")


def test_a_missing_browser_is_a_failure_that_says_what_to_install(monkeypatch):
    import chromium_pipe

    monkeypatch.setattr(chromium_pipe.shutil, "which", lambda name: None)
    with pytest.raises(AssertionError, match="apt-get install chromium"):
        chromium_pipe.find_browser()
