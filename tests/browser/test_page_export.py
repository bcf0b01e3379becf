"""What a reader can save of a panel: a picture that explains itself, and the drawn numbers."""

import csv
import json

import numpy as np
import pytest
import report_samples as samples
from chromium_pipe import Page
from PIL import Image

from homotopy_cli.report.page import render

pytestmark = pytest.mark.browser


@pytest.fixture
def saved(tmp_path):
    """Click a button of a panel and wait for the file."""

    def save(page, key, act):
        folder = tmp_path / "saved"
        page.browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        before = set(folder.glob("*"))
        page.run(f"document.querySelector('#p-{key} [data-act={act}]').click()")
        for _ in range(200):
            page.wait_for("new Promise((done) => setTimeout(() => done(true), 50))")
            new = [f for f in set(folder.glob("*")) - before if f.suffix != ".crdownload"]
            if new:
                return new[0]
        raise AssertionError(f"nothing was saved of {key}")

    return save


def rows(file):
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.reader(text))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_picture_is_light_opaque_and_named_after_run_and_panel(opened, saved, dark):
    page = opened("compare", dark=dark)
    file = saved(page, "loss", "png")
    assert file.name == "3-runs-loss.png"
    pixels = np.asarray(Image.open(file).convert("RGBA"))
    assert (pixels[..., 3] == 255).all()
    corner = pixels[-1, -1, :3]
    assert (corner == [0xFE, 0xFE, 0xFD]).all()
    assert pixels.shape[1] == 2 * page.run("document.getElementById('plot-loss').clientWidth")
    dark_ink = (pixels[:80, :, :3].max(axis=2) < 90).sum()
    assert dark_ink > 500, "a title in dark ink above the plot"
    assert (pixels[-60:, :, :3].max(axis=2) < 90).sum() > 300, "a legend below it"
    assert page.faults() == []


def test_a_picture_carries_title_unit_and_legend(opened, saved):
    page = opened("run", dark=True)
    page.run(
        "(() => { window.asked = []; const old = Plotly.downloadImage;"
        "Plotly.downloadImage = (f, how) => { asked.push(f); return old(f, how); } })()"
    )
    file = saved(page, "loss", "png")
    assert file.name == "gpt_small-loss.png"
    layout = json.loads(page.run("JSON.stringify(asked[0].layout)"))
    assert layout["title"]["text"] == "gpt_small · Loss"
    assert layout["yaxis"]["title"]["text"] == "loss"
    shown = page.run("asked[0].data.filter((t) => t.showlegend).map((t) => t.name)")
    assert shown == ["training, each step", "mean of the last 12", "spike", "held out"]
    assert page.run("asked[0].data[1].line.color") == "#2460c4", "the light theme's blue"


def test_the_drawn_numbers_are_saved_as_columns(opened, saved):
    page = opened("run")
    page.run("document.querySelector('#p-loss .legend button').click()")  # hides each step
    head, *body = rows(saved(page, "loss", "csv"))
    assert head == ["step", "mean of the last 12", "spike", "held out"]
    steps = [int(row[0]) for row in body]
    assert steps == sorted(set(steps)) and steps[0] == 0 and steps[-1] == 600
    trace = page.run("document.getElementById('plot-loss').data[1]")
    known = {int(row[0]): float(row[1]) for row in body if row[1]}
    assert known == dict(zip(trace["x"], trace["y"], strict=True))
    head, *body = rows(saved(page, "layers", "csv"))
    assert head[0] == "step" and len(head) == 25  # 24 layers in sight
    assert all(float(cell) > 0 for row in body for cell in row[1:] if cell)
    assert page.faults() == []


def test_a_band_is_saved_by_its_edges_and_a_lone_probe_by_layer(opened, saved):
    head, *body = rows(saved(opened("seeds"), "lr", "csv"))
    assert head[:4] == [
        "step",
        "lr=0.001 · 2 seeds, high",
        "lr=0.001 · 2 seeds, low",
        "lr=0.001 · 2 seeds",
    ]
    for row in body:
        high, low, middle = (float(cell) for cell in row[1:4])
        assert low <= middle <= high
    head, *body = rows(saved(opened("probe"), "layers", "csv"))
    assert head[0] == "layer" and len(body) == 24 and body[0][0].startswith("blocks.")


def test_a_hostile_name_is_no_path_and_no_formula(browser, saved, tmp_path):
    from dataclasses import replace

    log = samples.transformer_log(n=60)
    layers = ('=HYPERLINK("x","y")', *log.layers[1:])
    log = replace(log, layers=layers)
    file = tmp_path / "evil.html"
    file.write_text(render([log], title="../..<b>/=evil"), encoding="utf-8")
    page = Page(browser, file)
    page.run("document.querySelector('#p-layers [data-act=all]').click()")
    made = saved(page, "layers", "csv")
    assert made.name == "b-=evil-layers.csv"
    assert '\'=HYPERLINK("x","y")' in rows(made)[0]
    page.close()
