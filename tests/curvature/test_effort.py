"""What is not asked for is not paid for, and what is paid less for is still certified."""

import pytest
import torch
import torch.nn as nn
from cases import BY_NAME

from homotopy_cli.curvature.api import probe
from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.exact import full_hessian
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem

OFF = {"trace": False, "frobenius": False, "checks": False}
NONE = None


@pytest.fixture(scope="module")
def spectrum(problem):
    h = full_hessian(problem)
    return torch.linalg.eigvalsh(0.5 * (h + h.T))


def test_one_end_costs_less_and_is_as_right(problem, spectrum):
    both = probe(problem, NONE, top_k=1, explicit_residual=False, end_floor=0.01, **OFF)
    one = probe(problem, NONE, top_k=1, explicit_residual=False, ends="max", **OFF)
    assert one.cost.n_hvp < both.cost.n_hvp
    assert one.converged and one.lambda_min is None
    assert abs(one.lambda_max.value - spectrum[-1].item()) <= one.lambda_max.residual
    assert one.lambda_max.residual <= 1e-3 * one.lambda_max.value


def test_norm_from_one_end_only_where_the_other_cannot_be_larger(problem, spectrum):
    one = probe(BY_NAME["uneven batches"].problem(), NONE, top_k=1, ends="max", **OFF)
    assert one.hessian_norm == one.lambda_max.value and one.kappa is not None
    other = probe(problem, NONE, top_k=1, ends="max", **OFF)
    assert other.lambda_max.value > 0.0
    assert other.hessian_norm is None and other.kappa is None
    assert "Hessian norm needs both ends" in other.kappa_reason
    negative = probe(BY_NAME["negative dominant"].problem(), NONE, top_k=1, ends="max", **OFF)
    assert negative.hessian_norm == pytest.approx(3.0)
    assert negative.lambda_min.value == -negative.hessian_norm  # what sets ‖H‖ is shown
    settled = probe(problem, NONE, top_k=1, ends="max", settle_norm=True, **OFF)
    exact = max(abs(spectrum[0].item()), abs(spectrum[-1].item()))
    assert settled.hessian_norm == pytest.approx(exact, rel=1e-3)
    assert settled.kappa is not None and settled.lambda_min.converged


def test_largest_few_by_value(problem, spectrum):
    found = probe(problem, NONE, top_k=6, ends="max", **OFF)
    for e, exact in zip(found.eigenvalues, spectrum.flip(0).tolist(), strict=False):
        assert abs(e.value - exact) <= e.residual
    assert len(found.eigenvalues) == 6


def test_one_pair_is_confirmed_in_a_large_problem(problem):
    silent = probe(problem, NONE, explicit_residual=False, **OFF)
    one = probe(problem, NONE, **OFF)
    every = probe(problem, NONE, explicit_residual=True, **OFF)
    assert one.cost.n_hvp == silent.cost.n_hvp + 1
    assert every.cost.n_hvp >= silent.cost.n_hvp + 5


def test_layers_from_one_end(problem):
    partition = Partition.by_module(problem)
    settings = {"whole": False, "explicit_residual": False, **OFF}
    both = probe(problem, partition, **settings)
    one = probe(problem, partition, ends="max", **settings)
    for a, b in zip(both.blocks, one.blocks, strict=True):
        assert b.lambda_min is None and b.converged
        assert b.lambda_max == pytest.approx(a.lambda_max, rel=1e-4)
        assert b.n_hvp <= a.n_hvp
        assert b.residual <= 1e-3 * b.lambda_max + 1e-12


def test_cheap_products_find_and_exact_ones_certify(problem, spectrum):
    plain = probe(problem, NONE, top_k=1, ends="max", explicit_residual=False, **OFF)
    mixed = probe(problem, NONE, top_k=1, ends="max", explicit_residual=False, mixed=True, **OFF)
    assert mixed.converged and mixed.warnings == ()
    assert abs(mixed.lambda_max.value - spectrum[-1].item()) <= mixed.lambda_max.residual
    assert mixed.cost.n_hvp <= plain.cost.n_hvp + 4
    assert mixed.cost.method == "double_backward"


def test_cheap_products_are_refused_at_kinks():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(20, 60), nn.ReLU(), nn.Linear(60, 5))
    batch = (torch.randn(50, 20), torch.randint(5, (50,)))
    made = Problem.from_module(net, "cross_entropy", [batch])
    mixed = probe(made, NONE, top_k=1, ends="max", mixed=True, **OFF)
    plain = probe(made, NONE, top_k=1, ends="max", **OFF)
    assert mixed.lambda_max == plain.lambda_max
    assert mixed.warnings == ("exact products throughout: the loss may have kinks (Relu)",)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"ends": "min"}, "ends must be both or max"),
        ({"mixed": True}, 'mixed products need ends="max" and top_k=1'),
        ({"mixed": True, "ends": "max"}, "top_k=1"),
        ({"trace_method": "xtrace"}, "trace_method must be"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        EstimatorConfig(**settings)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_trace_stops_at_its_interval(problem, spectrum, method):
    found = probe(
        problem,
        NONE,
        top_k=10,
        trace_rtol=0.05,
        max_probes=600,
        trace_method=method,
        frobenius=False,
        checks=False,
    )
    total = spectrum.sum().item()
    assert 2 * found.trace.stderr <= 0.05 * abs(found.trace.value)
    assert abs(found.trace.value - total) < 4 * found.trace.stderr
    assert found.trace.n_probes < 600


def test_bounded_memory_gives_the_same_eigenvalues(problem, spectrum):
    """Room for eight vectors of 1,404 float64 numbers."""
    found = probe(problem, NONE, top_k=1, max_memory=8 * 8 * problem.n_params, **OFF)
    assert found.converged
    assert abs(found.lambda_max.value - spectrum[-1].item()) <= found.lambda_max.residual
    assert abs(found.lambda_min.value - spectrum[0].item()) <= found.lambda_min.residual
    config = EstimatorConfig.thorough(max_memory=8 * 8 * problem.n_params)
    from homotopy_cli.curvature.forecast import forecast

    assert forecast(problem, None, config).memory_bytes < 25 * 8 * problem.n_params


def test_layers_are_resolved_to_the_tolerance_asked_for(problem):
    partition = Partition.by_module(problem)
    loose = probe(problem, partition, whole=False, rtol=1e-2, **OFF)
    tight = probe(problem, partition, whole=False, rtol=1e-5, **OFF)
    assert sum(b.n_hvp for b in loose.blocks) < sum(b.n_hvp for b in tight.blocks)
    for a, b in zip(loose.blocks, tight.blocks, strict=True):
        assert a.converged and b.converged
        assert abs(a.lambda_max - b.lambda_max) <= a.residual + b.residual
        assert abs(a.lambda_min - b.lambda_min) <= a.residual + b.residual
        assert a.residual <= 1.01e-2 * a.hessian_norm
