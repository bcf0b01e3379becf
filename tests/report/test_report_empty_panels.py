"""What was not measured: no empty frame on the page, one line where the emptiness is news."""

from dataclasses import replace

import numpy as np
import pytest
import report_samples as samples

from homotopy_cli.report.page import render
from homotopy_cli.report.panel import Panel, worth_showing
from homotopy_cli.report.single import run_body
from homotopy_cli.report.verdict import verdict


def keys(log):
    return [panel.key for panel in run_body(log).panels]


def without(log, *names):
    """As under SGD: the column is there, and nothing was measured into it."""
    nothing = {name: np.full(len(log.probe_step), np.nan) for name in names}
    return replace(log, probes={**log.probes, **nothing})


def test_what_another_optimizer_would_measure_gets_no_panel():
    log = samples.transformer_log(n=200, spike=False)
    assert "sharpness" in keys(log)
    sgd = without(log, "preconditioned_sharpness", "directional_sharpness")
    assert keys(sgd) == [key for key in keys(log) if key != "sharpness"]
    assert "p-sharpness" not in render([sgd])


def test_a_section_of_nothing_but_absent_panels_is_left_out():
    body = run_body(samples.plain_log())
    named = [key for key, _ in body.sections]
    assert "stability" in named and not {"layers", "structure", "components"} & set(named)
    for key in ("layers", "structure", "components"):
        assert f'id="{key}"' not in body.html
    assert "is-empty" not in body.html


@pytest.mark.parametrize("name, key", [("kappa", "kappa"), ("lambda_max", "eigenvalues")])
def test_a_value_that_failed_is_one_line(name, key):
    log = samples.transformer_log(n=200, spike=False)
    log = without(log, "lambda_max", "lambda_min", "hessian_norm", "kappa")
    log.probes[name][:] = np.inf
    html = run_body(log).html
    line = html[html.index(f'<p class="empty" id="p-{key}">') :]
    assert f"No finite value: {name} non-finite from step 0" in line[: line.index("</p>")]


def test_an_edge_that_was_never_measured_is_said():
    html = run_body(samples.plain_log()).html
    assert '<p class="empty" id="p-edge"><b>Edge of stability</b> How near training came' in html


def test_order_and_figures_are_kept():
    a, b = Panel("a", "A", "", news=True), Panel("b", "B", "")
    assert worth_showing([a, b]) == (a,)


def one_step():
    """As `train --set steps=1` leaves it: a probe of the edge, and two of what is inside."""
    log = samples.transformer_log(n=1, spike=False)
    nan = np.nan
    probes = {"lambda_max": [nan, 59.5, nan], "edge_ratio": [nan, 0.76, nan]}
    probes |= {"converged": [nan, 0.0, nan], "n_hvp": [nan, 10.0, nan]}
    table = {name: np.array(values) for name, values in probes.items()}
    return replace(log, probe_step=np.array([0, 0, 1]), probes=table, spectra=(), layers=())


def test_one_step_is_no_change():
    html = run_body(one_step()).html
    assert "4.693 in one step. Held-out" in html
    for nonsense in ("From 4.693", "largest 1.31", ", 10 each", "of 3 "):
        assert nonsense not in html
    assert "1 probe spent 10 Hessian-vector products." in html
    assert "λ_max = 59.5. Its probe had not converged." in html


@pytest.mark.parametrize(
    "short, said",
    [
        (0, ""),
        (1, " 1 of its 5 probes had not converged."),
        (5, " None of its 5 probes had converged."),
    ],
)
def test_the_edge_says_how_many_of_its_probes_had_not_converged(short, said):
    """A probe of something else, whose row has no edge ratio, is not counted."""
    log = samples.plain_log(100)
    ratio = np.array([0.1, 0.2, 0.3, 0.2, 0.4, np.nan])
    met = np.array([float(i >= short) for i in range(5)] + [0.0])
    steps = np.array([0, 20, 40, 60, 90, 95])
    log = replace(log, probe_step=steps, probes={"edge_ratio": ratio, "converged": met})
    text = next(f.text for f in verdict(log).findings if f.label == "Edge")
    assert text.endswith(f"Median 0.3 over the second half of the probes.{said}")
