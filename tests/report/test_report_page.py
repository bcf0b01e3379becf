"""The page as a file: what it says, what it may never contain, and that it never changes."""

import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import report_samples as samples

from homotopy_cli.errors import HomotopyError
from homotopy_cli.records import EventRecord
from homotopy_cli.report.gates import evaluate
from homotopy_cli.report.markdown import markdown_summary
from homotopy_cli.report.metrics import metrics_document
from homotopy_cli.report.page import render
from homotopy_cli.report.stability import edge_before, stability
from homotopy_cli.runlog.reader import RunLog, Spectrum, read_log

HERE = Path(__file__).parent
SAMPLE = HERE.parent.parent / "sample_runs" / "quickstart" / "run.h5"
OLDER = {"provenance": {"recipe_resolved": {"optimizer": {"name": "adamw"}}}}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&<b>\u202e"


def refuse_constant(name):
    raise AssertionError(f"bare {name} in JSON")


def figures(page: str) -> dict:
    text = re.search(r'<script type="application/json" id="homotopy-data">(.*?)</script>', page)[1]
    return json.loads(text, parse_constant=refuse_constant)


def panel(page: str, key: str) -> dict:
    return next(p for p in figures(page)["panels"] if p["key"] == key)


def text_of(page: str) -> str:
    """What a reader without scripts sees."""
    body = page[page.index("<body>") :]
    body = re.sub(r"<script.*?</script>|<style.*?</style>", "", body, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)).replace("\u202f", " ")


@pytest.fixture(scope="module")
def log():
    return samples.transformer_log()


@pytest.fixture(scope="module")
def page(log):
    return render([log])


def test_the_verdict_comes_first_and_in_words(page):
    text = text_of(page)
    assert "Trained: loss 4.652 → 1.605 in 2 000 steps." in text
    assert "1 loss spike, at step 1 200; it rose from 1.67 to 3.05" in text
    assert "no probe just before it was near the edge of stability (edge ratio at most 0.5" in text
    assert "of the stability limit" in text
    assert "The homotopy scheduler: curvature set the rate on 514 steps of 2 000" in text
    assert "Most curved at step 1 200: blocks." in text
    assert text.index("Trained:") < text.index("Learning rate")


def test_a_spike_is_set_beside_the_probes_before_it():
    log = samples.plain_log(100)
    steps = np.array([0, 20, 40, 60, 80])

    def said(*ratios):
        probes = {"edge_ratio": np.array(ratios)}
        return edge_before(replace(log, probe_step=steps, probes=probes), 60)

    beyond = "; training was beyond the edge of stability just before (edge ratio 1.4 at step 40)"
    assert said(9.0, 0.5, 1.4, 1.1, 9.0) == beyond
    close = "; training was close to the edge of stability just before (edge ratio 0.8 at step 60)"
    assert said(9.0, 0.5, 0.4, 0.8, 9.0) == close
    assert said(9.0, 0.1, 0.2, np.nan, 9.0) == (  # the probe at 60 measured nothing: 0, 20, 40
        "; training was beyond the edge of stability just before (edge ratio 9 at step 0)"
    )
    assert edge_before(log, 60) == ""
    diverged = replace(log, probe_step=steps, probes={"edge_ratio": np.full(5, 2.0)})
    diverged.steps["loss"][90:] = np.nan
    assert stability(diverged).text == (
        "Loss non-finite from step 90 (10 rows); training was beyond the edge of stability just "
        "before (edge ratio 2 at step 40)."
    )


def test_steps_out_of_order_are_said_and_drawn():
    log = samples.transformer_log(n=100)
    damaged = replace(log, step=np.concatenate([log.step[:99], [2**62]])[::-1])
    text = text_of(render([damaged]))
    assert "The steps are not in increasing order: the log is damaged" in text
    assert "not in increasing order" not in text_of(render([log]))
    real = read_log(SAMPLE)  # its snapshots share the steps of probes
    assert "not in increasing order" not in text_of(render([real]))


def test_text_that_is_no_utf8_becomes_a_page_that_is():
    log = replace(samples.plain_log(), attrs={"run_id": "a\udcff", "status": "\udc80"})
    log = replace(log, notes=("note \udcfe",), layers=("\udcfd",))
    document = json.dumps(metrics_document([log]), ensure_ascii=False)
    for text in (render([log]), markdown_summary([log]), document):
        text.encode("utf-8")


def test_every_panel_has_heading_finding_label_and_table(page):
    keys = [p["key"] for p in figures(page)["panels"]]
    assert " ".join(keys) == (
        "loss lr edge sharpness eigenvalues kappa norms signs layers spectrum overhead "
        "components component-layers"
    )
    for key in keys:
        section = re.search(rf'<section class="panel[^"]*" id="p-{key}">.*?</section>', page, re.S)
        assert section, key
        assert f'<h3 id="h-{key}">' in section[0]
        assert re.search(r'<p class="finding">[^<]{20,}</p>', section[0]), key
        assert re.search(rf'id="plot-{key}" role="img" aria-label="[^"]{{20,}}"', section[0]), key
        assert "<summary>Table of data</summary>" in section[0], key


def test_nothing_is_loaded_from_anywhere(page):
    assert not re.search(r'(?:src|href|action|data)\s*=\s*["\']?(?:https?:)?//', page)
    assert not re.search(r"(?:src|href)=\"(?!#)", page)
    assert "@import" not in page and "url(" not in page


def test_the_policy_allows_our_script_and_nothing_else(page):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1]
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        f"script-src 'sha256-{digest}' blob:",
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert not re.search(r"\son\w+=", page[: page.index('<script type="application/json"')])


def test_plotly_is_inside_compressed_and_asks_nobody(page):
    packed = re.search(r'id="plotly-gzip">([^<]+)<', page)[1]
    code = gzip.decompress(base64.b64decode(packed)).decode()
    assert "Plotly" in code[:2000] or "plotly.js" in code[:2000]
    config = figures(page)["config"]
    assert config["showSendToCloud"] is False
    assert config["plotlyServerURL"] == ""
    assert len(page.encode()) < 3_000_000


def test_only_drawings_that_need_no_eval(page):
    kinds = {t["type"] for p in figures(page)["panels"] for t in p["data"]}
    assert kinds <= {"scatter", "heatmap", "bar"}


def test_the_same_log_gives_the_same_bytes():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import hashlib, report_samples as s\n"
        "from homotopy_cli.report.page import render\n"
        "log = s.transformer_log(n=300); other = s.transformer_log(n=300, seed=1, lr=1e-3)\n"
        "pages = render([log], baseline=other) + render([log, other]) + render([s.probe_log()])\n"
        "print(hashlib.sha256(pages.encode()).hexdigest())"
    )
    digests = set()
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(HERE)],
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin", "TZ": f"UTC+{seed}"},
            capture_output=True,
            text=True,
            cwd=HERE.parent.parent,
        )
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


def test_hostile_text_stays_text():
    log = samples.transformer_log(n=60)
    hostile = replace(
        log,
        path=f"/tmp/{HOSTILE}.h5",
        attrs={**log.attrs, "run_id": HOSTILE, "status": HOSTILE, "writer": HOSTILE},
        layers=tuple(f"{HOSTILE}{i}" for i in range(len(log.layers))),
        layer_kind=(HOSTILE,) * len(log.layers),
        events=(EventRecord(1, "warning", HOSTILE, HOSTILE),),
        notes=(HOSTILE,),
        missing=(HOSTILE,),
        provenance={
            **log.provenance,
            "recipe_source": HOSTILE,
            "recipe_resolved": {"name": HOSTILE, "scheduler": {"name": HOSTILE}},
            "argv": (HOSTILE,),
            "environment": {HOSTILE: HOSTILE},
        },
    )
    gates = [evaluate("spikes > 3", {"spikes": 1})]
    for made in (
        render([hostile], title=HOSTILE, gates=gates, baseline=hostile),
        render([hostile, hostile, hostile]),
    ):
        assert made.count("<script") == 3 and made.count("</script") == 3
        assert "<img" not in made and "<b>\u202e" not in made
        assert "\u202e" not in made.split('<script type="application/json"')[0]
        names = figures(made)["panels"]
        assert names


def test_names_that_reach_plotly_are_escaped():
    log = replace(samples.transformer_log(n=60), layers=tuple(f"<i>{i}</i>" for i in range(33)))
    heat = panel(render([log]), "layers")
    assert all("<" not in label for label in heat["layout"]["yaxis"]["ticktext"])
    assert heat["extra"]["names"][0].startswith("<i>")  # the script escapes these itself


def test_recipe_text_is_exact(page):
    shown = re.search(r"<h3>Recipe</h3><pre>(.*?)</pre>", page, re.S)[1]
    assert shown.replace("&#x27;", "'").replace("&amp;", "&") == samples.RECIPE


def test_without_rows_the_page_says_so():
    made = render([RunLog.empty("run.h5")])
    text = text_of(made)
    assert "No rows: the log ends before its first step." in text
    assert figures(made)["panels"] == []
    assert len(made) < 100_000, "plotly.js is of no use here"


def test_no_log_is_a_usage_error():
    with pytest.raises(HomotopyError, match="no log to report on"):
        render([])


def test_what_is_not_finite_is_a_gap_and_a_sentence():
    loss = np.exp(-np.arange(100) / 40)
    loss[40:] = np.nan
    kappa = np.linspace(1, 7, 100)
    kappa[10:12] = [np.inf, -np.inf]
    log = samples.plain_log()
    log = replace(log, steps={**log.steps, "loss": loss}, probes={"kappa": kappa})
    made = render([log])
    text = text_of(made)
    assert "loss non-finite from step 40 (60 rows)" in text
    assert "kappa has 2 non-finite values" in text
    drawn = panel(made, "loss")["data"][0]
    assert len(drawn["y"]) == 100 and drawn["y"][40:] == [None] * 60
    assert panel(made, "kappa")["data"][0]["y"][10:12] == [None, None]


def test_a_million_rows_are_thinned_and_the_spike_is_there():
    n = 1_000_000
    rng = np.random.default_rng(0)
    kappa = 1 + np.arange(n) / n + 0.1 * rng.random(n)
    kappa[654_321] = 1e6
    step = np.arange(n)
    log = samples.plain_log()
    log = replace(
        log,
        step=step,
        steps={"loss": np.exp(-step / 3e5), "lr": np.full(n, 0.1)},
        probe_step=step,
        probes={"kappa": kappa},
    )
    made = render([log])
    drawn = panel(made, "kappa")["data"][0]
    assert (drawn["x"][0], drawn["x"][-1]) == (0, n - 1)
    assert drawn["y"][drawn["x"].index(654_321)] == 1e6
    assert min(drawn["y"]) == float(f"{kappa.min():.6g}")
    assert len(drawn["x"]) <= 2000
    assert "of 1 000 000 points, min–max per bin" in text_of(made)
    assert len(made.encode()) < 8_000_000


def test_missing_columns_give_labelled_panels_and_a_note():
    log = samples.plain_log()
    steps = {k: v for k, v in log.steps.items() if k != "lr"}
    text = text_of(render([replace(log, steps=steps, probes={}, missing=("kappa", "lr"))]))
    assert "Missing columns: kappa and lr." in text
    assert "This log has no column lr." in text
    assert "This log has no column kappa." in text


def test_three_hundred_layers_are_ranked_and_limited():
    rng = np.random.default_rng(0)
    values = rng.random((20, 300)).astype("f4")
    log = replace(
        samples.plain_log(20),
        layers=tuple(f"block.{i}.attn.qkv" for i in range(300)),
        layer_numel=np.full(300, 10),
        layer_kind=("Linear",) * 300,
        layer_values={"layer_kappa": values},
    )
    made = render([log])
    spec = panel(made, "layers")
    assert len(spec["data"][0]["z"]) == 24 and len(spec["data"]) == 1
    order = np.argsort(-values[-1], kind="stable")
    assert spec["extra"]["names"] == [f"block.{i}.attn.qkv" for i in order]
    assert "all 300" in made and 'aria-label="filter layers by name"' in made
    assert len(made.encode()) < 10_000_000


def test_numbers_and_curves_are_there_without_scripts(page):
    visible = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "<noscript>" in visible
    assert visible.count('<svg class="static"') >= 7
    assert visible.count('<svg class="spark"') >= 5
    assert "<dt>held-out loss</dt><dd>1.652" in visible


def test_tables_that_scroll_are_named_regions_with_headings(page):
    regions = re.findall(r'<div class="scroll"[^>]*>', page)
    assert regions
    for region in regions:
        assert re.search(r'tabindex="0" role="region" aria-label="table of [^"]+"', region)
    assert 'aria-label="table of step, loss"' in page
    assert '<th scope="col" class=n>loss</th>' in page
    assert re.search(r'<tr><th scope="row" class=n>1\u202f999</th><td class=n>', page)


def test_a_probe_has_its_own_page():
    made = render([samples.probe_log()])
    assert "Spectrum from −11.7 to 41.7 ± 0.004." in text_of(made)
    text = text_of(made)
    assert "Sharpness λ_max = 41.7 at loss 1.93." in text
    assert "κ = 3.2: a gradient step of 1/‖H‖ is sure to gain 0.156 of loss" in text
    assert "diverges above a learning rate of 0.048 (2/λ_max)" in text
    assert [p["key"] for p in figures(made)["panels"]] == ["spectrum", "layers"]
    assert panel(made, "layers")["data"][0]["type"] == "bar"
    assert "Learning rate" not in text


def test_gates_are_listed_with_their_values():
    names = {"spikes": 5, "final_loss": None}
    gates = [evaluate(e, names) for e in ("spikes > 3", "spikes > 9", "final_loss > 2")]
    text = text_of(render([samples.plain_log()], gates=gates))
    assert "2 of 3 gates failed." in text
    assert "spikes > 9 passed spikes = 5" in text.replace("&gt;", ">")
    assert "not evaluable final_loss was not measured" in text


def test_the_slider_holds_every_spectrum():
    log = samples.transformer_log(n=200)
    frames = panel(render([log]), "spectrum")["extra"]["frames"]
    assert [f["step"] for f in frames] == [s.step for s in log.spectra]
    values = np.array([5.0, -2.0, np.nan], dtype="f4")
    ritz = replace(log, spectra=(Spectrum(7, -1, values, np.ones(3, "f4"), "eigenvalues"),))
    spec = panel(render([ritz]), "spectrum")
    assert spec["data"][0]["type"] == "bar" and spec["data"][0]["y"] == [5.0, -2.0]


def test_a_loss_that_rose_without_ever_being_nan_is_called_worse():
    loss = np.concatenate([np.full(10, 1.1), np.full(90, 650.0)])
    log = samples.plain_log()
    ratio = np.full(100, 40.0)
    log = replace(
        log, steps={**log.steps, "loss": loss}, probes={**log.probes, "edge_ratio": ratio}
    )
    text = text_of(render([log]))
    assert "Got worse: loss 1.1 → 650 over 100 steps, up 591 times." in text
    assert "at 40 times the stability limit" in text
    assert "100 probes of 100 beyond the edge" in text


@pytest.mark.parametrize(
    ("columns", "more", "said"),
    [
        ({"preconditioned_sharpness": 400.0, "edge_threshold": 16.0}, {}, "(16/λ_max(P⁻¹H))"),
        (
            {"preconditioned_sharpness": 400.0},
            OLDER,
            "edge lies at a learning rate of 0.095 (38/λ_max(P⁻¹H))",
        ),
        ({"edge_threshold": 3.8}, {}, "(3.8/λ_max)"),
        ({"edge_threshold": 2.0}, {}, ""),
        ({"preconditioned_sharpness": -400.0, "edge_threshold": 16.0}, {}, ""),
    ],
)
def test_a_probe_s_page_takes_the_threshold_from_the_log(columns, more, said):
    one = samples.probe_log()
    probes = one.probes | {name: np.array([value]) for name, value in columns.items()}
    made = text_of(render([replace(one, probes=probes, **more)]))
    assert said in made
    assert ("optimizer lies at a learning rate" in made) == bool(said and not more)
