"""Figures are pure functions of a log; their sentences are checked on logs made to measure."""

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
import report_samples as samples

from homotopy_cli.records import EventRecord
from homotopy_cli.report import facts
from homotopy_cli.report.figures import (
    components,
    curvature,
    edge,
    layers,
    loss,
    lr,
    norms,
    overhead,
    signs,
    spectrum,
)
from homotopy_cli.report.layers import latest, rank
from homotopy_cli.report.panel import Panel, balanced
from homotopy_cli.report.theme import PALETTE, dark_colors
from homotopy_cli.report.words import gaps, number, percent, ranges, rate, shorten
from homotopy_cli.runlog.reader import RunLog, Spectrum

PANELS = (
    loss.loss_panel,
    lr.lr_panel,
    edge.edge_panel,
    curvature.sharpness_panel,
    curvature.eigenvalue_panel,
    curvature.kappa_panel,
    norms.norms_panel,
    signs.signs_panel,
    components.components_panel,
    overhead.overhead_panel,
    layers.layers_panel,
    spectrum.spectrum_panel,
)


@pytest.fixture(scope="module")
def log():
    return samples.transformer_log(n=400)


@pytest.mark.parametrize("panel", PANELS, ids=lambda f: f.__name__)
def test_a_figure_is_a_pure_function(panel, log):
    first, second = panel(log).figure, panel(log).figure
    assert isinstance(first, go.Figure) and first.data
    assert first.to_json() == second.to_json()


@pytest.mark.parametrize("panel", PANELS, ids=lambda f: f.__name__)
def test_a_panel_without_data_names_what_is_missing(panel):
    made = panel(samples.plain_log(0))
    assert made.figure is None
    assert made.finding and made.empty


@pytest.mark.parametrize("panel", PANELS, ids=lambda f: f.__name__)
def test_only_colours_of_the_palette_are_used(panel, log):
    known = {light for light, _ in PALETTE.values()} | {"rgba(0,0,0,0)"}

    def colours(value, key=""):
        if isinstance(value, dict):
            for name, inner in value.items():
                if name != "colorscale":
                    yield from colours(inner, name)
        elif isinstance(value, (list, tuple)) and key != "colorway":
            for inner in value:
                yield from colours(inner, key)
        elif isinstance(value, str) and ("color" in key):
            yield value

    assert set(colours(panel(log).figure.to_plotly_json())) <= known


def test_light_colours_are_distinct_so_that_dark_ones_can_replace_them():
    assert len(dark_colors()) == len(PALETTE)


@pytest.mark.parametrize(
    ("role", "background"),
    [
        (r, b)
        for r in ("ink", "muted", "blue", "orange", "teal", "red", "violet", "gold", "green")
        for b in ("panel", "page")
    ],
)
@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_colours_have_enough_contrast(role, background, scheme):
    def luminance(text):
        parts = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted(
        (luminance(PALETTE[role][scheme]), luminance(PALETTE[background][scheme])), reverse=True
    )
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_the_edge_is_found_from_the_ratio_whatever_the_optimizer(log):
    found = edge.implied_edge(log)
    assert found.signal == "preconditioned_sharpness"
    assert found.constant == pytest.approx(38.0)
    lr_used = np.interp(log.probe_step, log.step, log.steps["lr"])
    np.testing.assert_allclose(found.sharpness, 38.0 / lr_used, rtol=1e-9)


def test_for_sgd_the_edge_is_drawn_beside_lambda_max(log):
    m = len(log.probe_step)
    rate_used = np.interp(log.probe_step, log.step, log.steps["lr"])
    sharp = np.linspace(5, 50, m)
    probes = {"lambda_max": sharp, "edge_ratio": rate_used * sharp / 2}
    sgd = replace(log, probes=probes)
    assert edge.implied_edge(sgd).constant == pytest.approx(2.0)
    names = [t.name for t in curvature.eigenvalue_panel(sgd).figure.data]
    assert names == ["edge 2 / lr", "λ_max"]


def test_edge_words():
    log = samples.plain_log(10)
    ratio = np.array([0.2, 0.4, 1.5, 1.2, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5])
    log = replace(log, probes={"edge_ratio": ratio})
    assert edge.edge_finding(log) == (
        "Furthest beyond at step 2, at 1.5 times the stability limit. "
        "Median 0.5 over the second half of the probes. "
        "2 probes of 10 beyond the edge (steps 2–3)."
    )


def test_lr_words_and_ribbon():
    log = samples.plain_log(10)
    schedule = np.full(10, 0.1)
    used = schedule.copy()
    used[:4] = [0.01, 0.02, 0.05, 0.08]
    reasons = np.array([1, 1, 2, 2, 0, 0, 0, 0, 0, 3.0])
    steps = {"lr": used, "schedule_lr": schedule, "lr_reason": reasons}
    log = replace(log, steps=steps)
    assert lr.lr_finding(log) == (
        "Between 0.01 and 0.1, highest at step 4, 0.1 at the end. "
        "Curvature set the rate on 5 steps of 10 (steps 0–3 and 9), "
        "down to 1/10 of the schedule at step 0."
    )
    figure = lr.lr_panel(log).figure
    spans = {t.name: list(t.x) for t in figure.data if t.yaxis == "y2"}
    assert spans == {
        "by the ceiling": [0, 2, None],
        "rising back": [2, 4, None],
        "by the schedule": [4, 9, None],
        "at the floor": [9, 9, None],
    }
    used_trace = next(t for t in figure.data if t.name == "used")
    assert list(used_trace.text)[:3] == ["ceiling", "ceiling", "release"]


def test_a_constant_schedule_is_said_to_rule():
    log = samples.plain_log()
    log = replace(log, steps={**log.steps, "lr_reason": np.zeros(100)})
    assert lr.lr_finding(log) == "Constant at 0.1. The schedule ruled throughout."


def test_layers_are_ranked_by_the_latest_finite_value():
    values = np.array([[1.0, 9.0, 3.0], [2.0, np.nan, 1.0]], dtype="f4")
    assert list(latest(values)) == [2.0, 9.0, 1.0]
    log = replace(
        samples.plain_log(2),
        probe_step=np.array([0, 1]),
        layers=("a", "b", "c"),
        layer_values={"layer_kappa": values},
    )
    assert [log.layers[i] for i in rank(log).order] == ["b", "a", "c"]
    assert "Largest κ: b (9), a (2) and c (1)." in layers.layers_panel(log).finding


def test_components_by_layer_rank_the_worst_first_and_leave_other_layers_out():
    nan = np.nan
    log = replace(
        samples.plain_log(2),
        probe_step=np.array([0, 1]),
        layers=("a.attn", "b.attn", "c.norm", "d.linear"),
        layer_values={
            "layer_attention_entropy": np.array([[3, 3, nan, nan], [2, 0.5, nan, nan]], "f4"),
            "layer_norm_eps_over_var": np.array([[nan, nan, 0.1, nan], [nan, nan, 0.2, nan]], "f4"),
        },
    )
    assert layers.layers_panel(log).figure is None
    panel = layers.component_layers_panel(log)
    assert panel.finding == (
        "Smallest attention entropy 0.5 in b.attn and largest norm ε/σ² 0.2 in c.norm."
    )
    assert panel.extra["names"] == ["b.attn", "a.attn", "c.norm"]
    assert [m["order"] for m in panel.extra["measures"]] == [[0, 1], [2]]
    assert [row[0] for row in panel.table.rows] == panel.extra["names"]
    assert layers.component_layers_panel(samples.plain_log(5)) is None


def test_what_was_measured_often_is_shown_first_and_once_is_a_band():
    once, often = np.full((40, 2), np.nan, "f4"), np.ones((40, 2), "f4")
    once[10] = 3.0
    log = replace(
        samples.plain_log(40),
        layers=("a", "b"),
        layer_values={"layer_lambda_max": once, "layer_lr": often},
    )
    panel = layers.layers_panel(log)
    assert panel.linked and panel.figure.data[0].type == "heatmap"
    assert [m["label"] for m in panel.extra["measures"]] == ["learning rate", "λ_max"]
    assert panel.extra["measures"][1]["x"] == [10, 40]
    assert panel.finding.startswith("Largest λ_max: ")


def test_a_cell_of_many_probes_shows_the_smallest_entropy():
    values = np.full((1000, 1), 10.0, dtype="f4")
    values[501] = 0.01
    log = replace(
        samples.plain_log(1000), layers=("a",), layer_values={"layer_attention_entropy": values}
    )
    panel = layers.component_layers_panel(log)
    assert min(panel.figure.data[0].z[0]) == -2.0
    assert any("entropy and σ: the smallest" in note for note in panel.notes)


def test_many_probes_share_cells_that_hold_the_largest():
    values = np.ones((1000, 2), dtype="f4")
    values[501, 1] = 100.0
    log = replace(
        samples.plain_log(1000), layers=("a", "b"), layer_values={"layer_lambda_max": values}
    )
    panel = layers.layers_panel(log)
    heat = panel.figure.data[0]
    assert len(heat.x) == 161 and len(heat.z[0]) == 160  # edges: a cell holds until the next
    assert max(max(row) for row in heat.z) == 2.0
    assert "160 of 1\u202f000 probes drawn, each cell the largest of its probes" in panel.notes


def test_equal_weights_are_a_list_of_eigenvalues_whatever_the_log_calls_them():
    values = np.array([5.0, -1.0, 3.0], dtype="f4")
    listed = Spectrum(0, -1, values, np.full(3, 1 / 3, "f4"), "density")
    panel = spectrum.spectrum_panel(replace(samples.plain_log(2), spectra=(listed,)))
    assert panel.title == "Eigenvalues" and panel.figure.data[0].type == "bar"
    assert list(panel.figure.data[0].y) == [5.0, 3.0, -1.0]
    nodes = replace(listed, weights=np.array([0.1, 0.7, 0.2], "f4"))
    both = spectrum.spectrum_panel(replace(samples.plain_log(2), spectra=(listed, nodes)))
    assert both.title == "Density of eigenvalues"
    one = replace(listed, values=values[:1], weights=np.ones(1, "f4"))
    said = spectrum.spectrum_panel(replace(samples.plain_log(2), spectra=(one,))).finding
    assert said == "One eigenvalue, 5."


def test_a_density_integrates_to_its_weights():
    rng = np.random.default_rng(0)
    nodes = np.sort(rng.standard_normal(50)).astype("f4")
    x, y = spectrum.broadened(Spectrum(0, -1, nodes, np.full(50, 0.02, "f4"), "density"))
    assert np.trapezoid(y, x) == pytest.approx(1.0, rel=1e-3)


def test_the_share_of_time_is_cumulative(log):
    share = overhead.cumulative_share(log)
    spent, total = log.steps["probe_seconds_step"], log.steps["step_seconds"]
    assert share[-1] == pytest.approx(100 * spent.sum() / total.sum())
    assert share[0] == pytest.approx(100 * spent[0] / total[0])
    assert "Probes took" in overhead.overhead_panel(log).finding


def test_alarms_of_components_are_said_first():
    log = replace(
        samples.plain_log(5),
        probes={"attention_max_logit": np.array([1.0, 2, 3, 4, 2e4]), "p_min": np.full(5, 0.1)},
    )
    assert components.components_panel(log).finding.startswith(
        "Attention logits above 1e4: diverging."
    )


def test_marks_are_spikes_then_warnings_and_never_too_many():
    log = samples.transformer_log(n=400)
    found = facts.marks(log)
    assert [m.label for m in found] == ["spike"]
    assert 240 <= found[0].step <= 243
    noisy = replace(log, events=tuple(EventRecord(20 * i, "warning", "X", "") for i in range(19)))
    assert len(facts.marks(noisy)) == facts.MAX_MARKS
    assert "spike" in [m.label for m in facts.marks(noisy)]


def test_names_and_targets_come_from_the_recipe():
    log = samples.transformer_log(n=5)
    assert (facts.run_name(log), facts.scheduler_name(log), facts.target(log)) == (
        "gpt_small",
        "homotopy",
        0.5,
    )
    assert facts.run_name(RunLog.empty("runs/a/first.h5")) == "first"
    assert facts.recipe(RunLog.empty(provenance={"recipe_resolved": "{broken"})) == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1.0, "1"),
        (-3.0, "−3"),
        (0.05203, "0.05203"),
        (136.393, "136.4"),
        (-11.74, "−11.74"),
        (123456.7, "1.235e5"),
        (1e-7, "1e-7"),
        (2000, "2\u202f000"),
        (float("nan"), "NaN"),
        (float("inf"), "∞"),
        (None, "—"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


def test_rates_percentages_ranges_and_names():
    assert [rate(x) for x in (0.1, 3e-3, 0.0027812, 1e-5, None)] == [
        "0.1",
        "3e-3",
        "2.78e-3",
        "1e-5",
        "—",
    ]
    assert [percent(x) for x in (0.0436, 0.2, 0.0004, None)] == [
        "4.4\u202f%",
        "20\u202f%",
        "0.04\u202f%",
        "—",
    ]
    steps = np.arange(12)
    mask = np.isin(steps, [0, 1, 2, 5, 7, 8, 10])
    assert ranges(steps, mask) == "0–2, 5, 7–8 and 1 more range"
    assert gaps("x", steps, np.ones(12)) == ""
    assert gaps("x", steps, np.where(steps == 3, np.inf, 1)) == "x has 1 non-finite value (step 3)"
    assert shorten("transformer.blocks.11.attention.query", 20) == "transfo…ention.query"
    assert shorten("blocks.11.query", 15) == "blocks.11.query"


def test_the_edge_survives_adams_bias_correction():
    """c = 38 (1 - 0.9^(t+1)) over the first steps: no constant, but one law."""
    step = np.array([0, 1, 2, 4, 8, 16])
    c = 38 * (1 - 0.9 ** (step + 1.0))
    sharp = np.array([3e5, 4e3, 5e3, 2e3, 4e3, 1e4])
    rate_used = np.array([8e-6, 7e-4, 1e-3, 2e-3, 3e-3, 1.7e-3])
    log = RunLog.empty(
        step=step,
        steps={"lr": rate_used},
        probe_step=step,
        probes={
            "preconditioned_sharpness": sharp,
            "lambda_max": np.array([60.0, 50, 67, 9, 8, 20]),
            "edge_ratio": rate_used * sharp / c,
        },
        provenance={"recipe_resolved": {"optimizer": {"name": "adamw", "betas": [0.9, 0.95]}}},
    )
    found = edge.implied_edge(log)
    assert found.signal == "preconditioned_sharpness"
    assert found.constant == pytest.approx(38.0)
    np.testing.assert_allclose(found.sharpness, c / rate_used)


@pytest.mark.parametrize(("counted", "name"), [(1, "edge 7 / (lr × clipping)"), (0, "edge 7 / lr")])
def test_a_threshold_in_the_log_is_the_one_drawn(counted, name):
    """The λ that steers is far from constant, so that its spread would not tell it."""
    step = np.arange(6)
    clip = np.array([1.0, 0.5, 0.1, 0.02, 0.3, 0.7])
    used = np.array([1e-3, 4e-3, 1e-2, 9e-3, 5e-3, 1e-3])
    along = np.array([30.0, 2e3, 50.0, 8e4, 600.0, 9.0])
    factor = used * clip**counted
    log = RunLog.empty(
        step=step,
        steps={"lr": used, "clip_coef": clip},
        probe_step=step,
        probes={
            "preconditioned_sharpness": np.linspace(7e3, 9e3, 6),
            "directional_sharpness": along,
            "edge_ratio": factor * along / 7.0,
            "edge_threshold": np.full(6, 7.0),
        },
    )
    found = edge.edge_of(log)
    assert (found.signal, found.constant) == ("directional_sharpness", 7.0)
    np.testing.assert_allclose(found.sharpness, 7.0 / factor)
    assert curvature.sharpness_panel(log).figure.data[0].name == name
    assert edge.edge_panel(log).table.head == ("step", "edge_ratio", "lr", "edge_threshold")


def test_an_older_log_of_nadam_does_not_get_the_law_of_adam():
    for name, beta1 in (("adamw", 0.9), ("nadam", None), ("radam", None), ("sgd", None)):
        resolved = {"recipe_resolved": {"optimizer": {"name": name}}}
        assert facts.adam_beta1(RunLog.empty(provenance=resolved)) == beta1


def test_layers_measured_once_in_a_long_run_become_bars():
    values = np.full((50, 3), np.nan, dtype="f4")
    values[4] = [3.0, -2.0, 9.0]
    log = replace(
        samples.plain_log(50), layers=("a", "b", "c"), layer_values={"layer_trace": values}
    )
    panel = layers.layers_panel(log)
    assert panel.figure.data[0].type == "bar" and list(panel.figure.data[0].x) == [9.0, 3.0, -2.0]
    assert not panel.linked


def test_a_long_silence_of_the_probes_is_said():
    log = replace(
        samples.plain_log(100),
        probe_step=np.arange(5),
        probes={"edge_ratio": np.full(5, 0.3)},
    )
    assert "The last probe was at step 4 of 100." in edge.edge_finding(log)


def test_clipping_that_never_acted_gets_no_row():
    log = samples.plain_log()
    log = replace(log, steps={**log.steps, "clip_coef": np.ones(100)})
    assert "Clipping never acted." in norms.norms_panel(log).finding
    assert [t.name for t in norms.norms_panel(log).figure.data] == ["gradient norm"]


def test_no_panel_leaves_a_hole_beside_it():
    """Letters: W wide, n narrow and drawn, e narrow and empty; each row holds one wide or two."""

    def laid_out(kinds):
        figures = {"W": go.Figure(), "n": go.Figure(), "e": None}
        made = [Panel(k, k, k, figures[k], wide=k == "W") for k in kinds]
        return "".join("W" if p.wide else p.key for p in balanced(made))

    assert laid_out("Wnn") == "Wnn"
    assert laid_out("nnn") == "nnW"
    assert laid_out("nWnnn") == "WWnnW"
    assert laid_out("ennne") == "nnWee"
    assert laid_out("nee") == "Wee"
    assert laid_out("nene") == "nnee"
