"""Without scripts every panel shows all its lines, drawn from the figure itself."""

import re

import numpy as np
import pytest
import report_samples as samples

from homotopy_cli.report.compare import compare_body
from homotopy_cli.report.facts import Mark
from homotopy_cli.report.figures.draw import add_level, add_marks
from homotopy_cli.report.page import render
from homotopy_cli.report.single import run_body
from homotopy_cli.report.still import POINTS, path, still
from homotopy_cli.report.theme import base_figure


def runs():
    rates = (1e-3, 3e-3, 1e-2)
    return [samples.transformer_log(n=400, lr=lr, path=f"{lr}/run.h5") for lr in rates]


def seeds():
    return [
        samples.transformer_log(n=300, seed=seed, lr=lr, path=f"{lr}/{seed}/run.h5")
        for lr in (1e-3, 3e-3)
        for seed in (0, 1)
    ]


BODIES = {
    "run": lambda: run_body(samples.transformer_log(n=600)),
    "baseline": lambda: run_body(*runs()[:1], baseline=runs()[1]),
    "probe": lambda: run_body(samples.probe_log()),
    "compare": lambda: compare_body(runs()),
    "seeds": lambda: compare_body(seeds()),
}


@pytest.mark.parametrize("name", BODIES)
def test_every_panel_shows_a_path_for_every_trace(name):
    body = BODIES[name]()
    plots = re.findall(r'<div class="plot" id="plot-([\w-]+)".*?>(.*?)</div>', body.html, re.S)
    assert [key for key, _ in plots] == [p.key for p in body.panels if p.figure is not None]
    for panel in body.panels:
        drawn = dict(plots)[panel.key]
        assert drawn.startswith('<svg class="static"'), panel.key
        marks = len([s for s in panel.figure.layout.shapes if s.type == "line"])
        if panel.extra.get("kind") == "layers":
            continue  # bars of the latest values
        assert drawn.count("<path ") == len(panel.figure.data) + marks, panel.key
        for data in re.findall(r' d="(.*?)"', drawn):
            assert "nan" not in data and len(re.findall("[Ml]", data)) <= 2 * POINTS + 2


def test_a_path_is_relative_to_a_tenth_and_breaks_at_a_gap():
    x = np.array([0, 1, 2.04, 3, 4, 5])
    y = np.array([5, 4.5, 4.46, np.nan, 1, 1.01])
    assert path(x, y) == "M0 5h.01l1-.5l1 0M4 1h.01l1 0".replace("-.5", "-0.5")


def test_levels_beyond_the_axis_are_left_out_and_others_are_named():
    figure = base_figure()
    figure.add_scatter(x=[0, 1], y=[1, 100], mode="lines", line={"color": "#2460c4"})
    figure.update_yaxes(type="log", range=[0, 2])
    add_level(figure, 10, label="ten", role="red")
    add_level(figure, 1e5, label="beyond", role="red")
    drawn = still(figure)
    assert ">ten</text>" in drawn and "beyond" not in drawn
    assert drawn.count("<path ") == 2
    assert 'style="stroke:var(--blue)"' in drawn and "var(--red)" in drawn
    assert ">100</text>" in drawn and ">1 · step 0</text>" in drawn


def test_marks_are_named_gravest_first_and_escaped():
    figure = base_figure()
    figure.add_scatter(x=[0, 1000], y=[1, 2], mode="lines", line={"color": "#2460c4"})
    marks = [
        Mark(100, "LR_<b>", "warning"),
        Mark(104, "spike", "spike"),
        Mark(1000, "nan", "error"),
    ]
    add_marks(figure, marks)
    names = [shape.name for shape in figure.layout.shapes]
    assert names == ["spike 104", "nan 1\u202f000", "lr &lt;b&gt; 100"]
    drawn = still(figure)
    said = re.findall(r'<text x="([\d.]+)" y="11"[^>]*>([^<]*)</text>', drawn)
    assert [text for _, text in said] == ["spike 104", "nan 1\u202f000"]  # the other has no room
    assert float(said[1][0]) < 720 - 50


def test_nothing_to_draw_is_no_picture():
    figure = base_figure()
    assert still(figure) == ""
    figure.add_scatter(x=[0, 1], y=[None, None])
    assert still(figure) == ""


def test_pages_stay_light():
    """2.02 MB of them are plotly.js; a static line is at most some 3 kB."""
    assert len(render([samples.transformer_log(n=600)]).encode()) < 2_500_000
    assert len(render(runs()).encode()) < 2_200_000


def test_legend_buttons_wait_for_the_script():
    html = BODIES["compare"]().html
    buttons = re.findall(r"<button [^>]*data-traces[^>]*>", html)
    assert buttons and all(" disabled " in button for button in buttons)
