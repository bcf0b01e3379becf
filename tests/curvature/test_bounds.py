"""Stated errors that few probes or finite steps make larger than they look."""

import pytest
import torch
import torch.nn as nn
from benchmarks.accuracy import small_problem

from homotopy_cli.cli.document import estimate_document
from homotopy_cli.cli.probing import QUICK
from homotopy_cli.curvature.api import probe
from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.exact import full_hessian
from homotopy_cli.curvature.moments import sampled_moments
from homotopy_cli.curvature.validate import _moment
from homotopy_cli.linalg.operator import DenseOperator
from homotopy_cli.linalg.vectors import generator
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem


def single_and_double(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3))
    batch = (torch.randn(64, 8), torch.randint(3, (64,)))
    make = lambda dtype: Problem.from_module(net, "cross_entropy", [batch], dtype=dtype)  # noqa: E731
    return make(torch.float32), full_hessian(make(torch.float64))


@pytest.mark.parametrize("method", ["central_difference", "forward_difference"])
@pytest.mark.parametrize("seed", [1, 3])
def test_products_by_differences_widen_what_rests_on_them(method, seed):
    """Oracle: the float64 Hessian, row by row. The residual alone was off by up to 40 %."""
    problem, hessian = single_and_double(seed)
    spectrum = torch.linalg.eigvalsh(hessian)
    found = probe(problem, Partition.by_module(problem), hvp=method, multiplicity=False)
    for record, exact in ((found.lambda_max, spectrum[-1]), (found.lambda_min, spectrum[0])):
        assert abs(record.value - exact.item()) <= record.residual
        assert record.residual < 0.02 * spectrum[-1]
    for record, exact in ((found.trace, spectrum.sum()), (found.frobenius_norm, spectrum.norm())):
        assert record.n_probes == 0 and 0.0 < record.stderr < 0.01 * exact
        assert abs(record.value - exact.item()) <= 4.0 * record.stderr
    assert all(block.trace.stderr > 0.0 for block in found.blocks)


def test_validation_allows_for_few_probes():
    """Four probes: 4 standard errors leave out 3 % of honest traces, Student's t one in 1,000."""
    hessian = full_hessian(small_problem())
    hessian = 0.5 * (hessian + hessian.T)
    spectrum = torch.linalg.eigvalsh(hessian)
    config = EstimatorConfig.thorough(refine_small=False, max_probes=4)
    outside = beyond_four = 0
    for seed in range(120):
        found = sampled_moments(
            DenseOperator(hessian), [len(hessian)], config, generator=generator(seed), known=None
        ).trace
        row = _moment("trace", found, spectrum.sum().item(), spectrum, 1e-10)
        outside += not row.within_bound
        beyond_four += abs(row.estimate - row.exact) > 4.0 * found.stderr
    assert outside <= 1 and beyond_four >= 2


@pytest.mark.parametrize("n, sought", [(40, True), (1500, False)])
def test_missing_copies_of_an_eigenvalue_are_admitted(n, sought):
    """Ten times 7: all five largest of a small problem; of a large one some, and it says so."""
    values = torch.linspace(0.0, 3.0, n, dtype=torch.float64)
    values[:10], values[10] = 7.0, -5.0
    problem = Problem.from_closure(
        {"x": torch.ones(n, dtype=torch.float64)}, lambda p: 0.5 * (values * p["x"] ** 2).sum()
    )
    found = probe(problem, None, top_k=5)
    all_found = [e.value for e in found.eigenvalues] == pytest.approx([7.0] * 5)
    assert found.copies_sought == sought
    assert all_found == sought
    assert (estimate_document(found)["eigenvalues_note"] is None) == sought
    assert found.lambda_max.value == pytest.approx(7.0)
    assert found.lambda_min.value == pytest.approx(-5.0)


def diagonal(*parts):
    """½Σ dᵢwᵢ²: its eigenvalues are d."""
    values = torch.cat([torch.as_tensor(part) for part in parts])
    weights = torch.randn(len(values), generator=torch.Generator().manual_seed(1))
    return Problem.from_closure({"w": weights}, lambda p: 0.5 * (values * p["w"] ** 2).sum())


def between(low, high, n=4000):
    return low + (high - low) * torch.rand(n, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("low", "bulk", "seeds"), [([-1.5, -1.45], 1.0, (1, 7, 8)), ([-2.7, -2.6, -2.5], 2.0, (3,))]
)
def test_an_end_far_smaller_than_the_norm_is_within_its_error(low, bulk, seeds):
    """The residual alone, 0.006 to 0.05, reaches the neighbour that was found instead."""
    problem = diagonal([1000.0, 800.0, 600.0, 400.0, 200.0], low, between(-bulk, bulk))
    for seed in seeds:
        found = probe(problem, None, seed=seed, trace=False, frobenius=False, checks=False)
        assert found.lambda_min.converged
        assert abs(found.lambda_min.value - low[0]) <= found.lambda_min.residual < 0.2


@pytest.mark.parametrize("seed", [3, 4, 7])
def test_a_quick_probe_counts_rounding_and_the_floor(seed):
    problem = diagonal([-21137.0, 78.0, 77.0], between(-40.0, 60.0))
    found = probe(problem, None, seed=seed, **QUICK)
    assert found.lambda_min.residual > 21137.0 * torch.finfo(torch.float32).eps
    assert abs(found.lambda_max.value - 78.0) <= found.lambda_max.residual
    assert abs(found.lambda_max.value) * 1e-3 <= found.lambda_max.residual
