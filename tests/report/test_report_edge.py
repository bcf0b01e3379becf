"""What the edge ratio leaves out: the error of its eigenvalue, and the other end."""

import numpy as np
import pytest

from homotopy_cli.report.figures import curvature, edge
from homotopy_cli.runlog.reader import RunLog


def made(**probes):
    """Six probes of Adam at rate 1e-3, λ(P⁻¹H) from 19,000 to 38,000, c = 38."""
    step = np.arange(6)
    scaled = np.linspace(1.9e4, 3.8e4, 6)
    given = {
        "preconditioned_sharpness": scaled,
        "edge_ratio": 1e-3 * scaled / 38.0,
        "edge_threshold": np.full(6, 38.0),
    }
    return RunLog.empty(
        step=step, steps={"lr": np.full(6, 1e-3)}, probe_step=step, probes=given | probes
    )


def test_the_ratio_is_drawn_and_told_with_the_residual_of_its_eigenvalue():
    ratio = np.linspace(0.5, 1.0, 6)
    log = made(preconditioned_residual=0.3 * np.linspace(1.9e4, 3.8e4, 6))
    np.testing.assert_allclose(edge.upper_ratio(log, ratio), 1.3 * ratio)
    names = [trace.name for trace in edge.edge_panel(log).figure.data]
    assert names == ["with its error", "edge ratio"]
    beyond = int((1.3 * ratio > 1).sum())
    words = f"Known to +30\u202f% in the median, with which {beyond} lie beyond."
    assert words in edge.edge_finding(log)


def test_an_older_logs_residual_counts_only_where_it_is_of_that_eigenvalue():
    plain = np.array([5.0, np.nan, 5.0, np.nan, 5.0, np.nan])
    log = made(residual=np.full(6, 1e4), lambda_max=plain)
    upper = edge.upper_ratio(log, np.linspace(0.5, 1.0, 6))
    np.testing.assert_array_equal(np.isfinite(upper), np.isnan(plain))


def test_without_a_residual_nothing_is_added():
    assert edge.upper_ratio(made(), np.full(6, 0.5)) is None
    assert "Known to" not in edge.edge_finding(made())


def test_a_low_ratio_beside_a_large_negative_end_is_no_sign_of_safety():
    log = made(
        lambda_max=np.array([5.0, 5.0, 0.5, -0.1, 5.0, 5.0]),
        lambda_min=np.array([-6.0, -1.0, -76.0, -6e5, -2.0, 1.0]),
    )
    said = "Where negative curvature is far the larger (steps 2–3) a low ratio is no sign of safety"
    assert said in edge.edge_finding(log)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (
            [50.0, 50.0, 5e5, 50.0, 50.0, 50.0],
            "There ‖H‖ was 500\u202f000, ",
        ),
        ([50.0] * 6, "It grows as the gradient vanishes."),
    ],
)
def test_what_made_kappa_large_is_told(size, words):
    log = made(kappa=np.array([1.0, 2.0, 88.0, 2.0, 1.0, 1.0]), hessian_norm=np.array(size))
    assert words in curvature.kappa_panel(log).finding
