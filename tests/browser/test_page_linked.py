"""Panels that share the step axis: one cursor at one step, one zoom, heights that follow."""

from dataclasses import replace

import pytest
import report_samples as samples
from chromium_pipe import Page

from homotopy_cli.records import EventRecord
from homotopy_cli.report.page import render

pytestmark = pytest.mark.browser

# Where a panel's cursor is on its axis, in steps; null if it shows none.
CURSORS = """['loss', 'lr', 'edge', 'sharpness', 'norms', 'layers'].map((key) => {
  const plot = document.getElementById(`plot-${key}`);
  const line = plot.querySelector('.cursor');
  if (!line || line.hidden) return null;
  const { xaxis } = plot._fullLayout;
  const left = line.getBoundingClientRect().left - plot.getBoundingClientRect().left;
  return xaxis.p2d(left - xaxis._offset);
})"""
RANGES = """(key) => {
  const { xaxis, yaxis } = document.getElementById(`plot-${key}`)._fullLayout;
  return [xaxis.range, yaxis.range];
}"""
BOX = """(key) => [...document.querySelectorAll(`#plot-${key} .hoverlayer text`)]
  .map((text) => text.textContent)"""


def hover(page, key, share):
    """Move the mouse into the plotting area, `share` of its width from the left."""
    box = page.box(f"#plot-{key} .nsewdrag")
    for at in (share - 0.01, share):
        page.mouse("mouseMoved", box["x"] + at * box["width"], box["y"] + box["height"] / 2)


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_the_cursor_is_at_the_hovered_step_in_every_panel(opened, share):
    page = opened("run", height=4000)
    hover(page, "loss", share)
    page.wait_for(f"{CURSORS}.every((at) => at !== null)")
    head, said = page.wait_for(f"({BOX})('lr')")[0].split()
    assert head == "step"
    step = int(said)
    assert abs(step - (-7 + share * 614)) < 3
    width = page.run("document.getElementById('plot-sharpness')._fullLayout.xaxis._length")
    pixel = 614 / width  # steps of one pixel in the narrowest panel
    assert page.run(CURSORS) == pytest.approx([step] * 6, abs=2 * pixel)
    assert page.run("document.querySelectorAll('.spikeline').length") == 0
    page.mouse("mouseMoved", 5, 5)
    page.wait_for(f"{CURSORS}.every((at) => at === null)")
    assert page.faults() == []


def test_the_box_of_a_lone_line_names_it(opened):
    page = opened("plain")
    hover(page, "loss", 0.5)
    head, line = page.wait_for(f"({BOX})('loss')")[:2]
    assert head.startswith("step ") and line.startswith("training")


def zoomed(page, key, low, high):
    box = page.box(f"#plot-{key} .nsewdrag")
    left, width = box["x"], box["width"]
    page.drag(left + low * width, left + high * width, box["y"] + box["height"] / 2)
    page.wait_for(f"!document.querySelector('#p-{key} [data-act=reset]').hidden")


def test_a_zoom_fits_the_heights_of_every_panel_and_two_clicks_return(opened):
    page = opened("run")
    keys = ("loss", "lr", "edge", "kappa", "norms")
    before = {key: page.run(f"({RANGES})('{key}')") for key in keys}
    zoomed(page, "loss", 0.75, 0.99)
    page.wait_for(f"(({RANGES})('edge'))[1][1] < 0.3")
    after = {key: page.run(f"({RANGES})('{key}')") for key in keys}
    for key in keys:
        (left, right), (low, high) = after[key]
        assert [left, right] == after["loss"][0]
        inside = page.run(f"""(() => {{
          const plot = document.getElementById('plot-{key}');
          const up = plot._fullLayout.yaxis.type === 'log' ? Math.log10 : (v) => v;
          return plot.data.filter((t) => (t.yaxis || 'y') === 'y').flatMap((t) =>
            t.y.filter((y, i) => y !== null && t.x[i] >= {left} && t.x[i] <= {right}).map(up));
        }})()""")
        assert low < min(inside) and max(inside) < high, key
        assert max(inside) - min(inside) > 0.5 * (high - low), key
    assert page.run("document.getElementById('plot-lr')._fullLayout.yaxis.type") == "log"
    box = page.box("#plot-lr .nsewdrag")
    for count in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            page.mouse(kind, box["x"] + 300, box["y"] + 50, button="left", clickCount=count)
    page.wait_for(f"(({RANGES})('edge'))[1][1] > 1")
    for key in keys:
        for now, then in zip(page.run(f"({RANGES})('{key}')"), before[key], strict=True):
            assert now == pytest.approx(then), key
    assert page.run("document.querySelectorAll('[data-act=reset]:not([hidden])').length") == 0
    assert page.faults() == []


def test_a_panel_of_its_own_zooms_alone(opened):
    page = opened("compare")
    linked = page.run(f"({RANGES})('loss')")
    before = page.run(f"({RANGES})('sweep')")
    zoomed(page, "sweep", 0.5, 0.95)
    page.wait_for(f"(({RANGES})('sweep'))[0][0] > {before[0][0]}")
    assert page.run(f"({RANGES})('loss')") == linked
    page.run("document.querySelector('#p-sweep [data-act=reset]').click()")
    page.wait_for(f"Math.abs((({RANGES})('sweep'))[0][0] - {before[0][0]}) < 1e-9")
    after = page.run(f"({RANGES})('sweep')")
    assert after[1] == pytest.approx(before[1])


LABELS = """[...document.querySelectorAll('.plot')].flatMap((plot) =>
  [...plot.querySelectorAll('.annotation')].map((note) => {
    const { left, right, top, bottom } = note.getBoundingClientRect();
    return [plot.id, note.textContent, left, right, top, bottom];
  }))"""


@pytest.mark.parametrize("width", [1440, 390])
def test_marked_steps_are_named_above_the_plot_without_overlaps(browser, tmp_path, width):
    log = samples.transformer_log(n=600)
    events = [EventRecord(step, "warning", "PROBE_OFF", "-") for step in (20, 45, 300, 330, 590)]
    log = replace(log, events=(*log.events, *events))
    file = tmp_path / "marked.html"
    file.write_text(render([log]), encoding="utf-8")
    page = Page(browser, file, width=width, mobile=width < 500)
    found = page.run(LABELS)
    spikes = {plot for plot, text, *_ in found if text == "spike 360"}
    linked = page.run(
        "JSON.parse(document.getElementById('homotopy-data').textContent)"
        ".panels.filter((p) => p.linked).map((p) => `plot-${p.key}`)"
    )
    assert spikes == set(linked), "the gravest is named in every panel of steps"
    assert any(text == "probe off 20" for _, text, *_ in found)
    for i, (plot, text, left, right, top, bottom) in enumerate(found):
        for other, its, from_x, to_x, from_y, to_y in found[:i]:
            apart = right <= from_x or to_x <= left or bottom <= from_y + 3 or to_y <= top + 3
            assert plot != other or apart, f"{plot}: {text} over {its}"
    assert page.faults() == []
    page.close()
