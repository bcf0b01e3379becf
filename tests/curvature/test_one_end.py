"""‖H‖ where only λ_max was asked for: never the smaller of the two ends."""

import pytest
import torch

from homotopy_cli.cli.probing import QUICK
from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.linalg.extreme import extreme_eigenvalues
from homotopy_cli.linalg.operator import DenseOperator
from homotopy_cli.linalg.vectors import generator
from homotopy_cli.problems.problem import Problem


def bent(eigenvalues, seed):
    """A cubic whose Hessian at 0 is diagonal; the cubic term gives finite steps an error."""
    b = 0.01 * torch.randn(len(eigenvalues), generator=generator(seed))

    def loss(p):
        x = p["x"]
        return 1.0 + b @ x + 0.5 * (eigenvalues * x * x).sum() + 0.01 * (x**3).sum()

    return Problem.from_closure({"x": torch.zeros(len(eigenvalues))}, loss)


def ends(n, low, seed, bulk):
    found = bulk * torch.rand(n, generator=generator(seed))
    found[0], found[1] = 1.0, low
    return found


@pytest.mark.parametrize("low", [-2.0, -1.05])
@pytest.mark.parametrize("seed", range(3))
def test_a_larger_negative_end_is_found_from_a_start_near_the_top(low, seed):
    """The quick probe begins at λ_max's vector, whose Krylov space shows nothing of λ_min."""
    problem = bent(ends(2000, low, seed, bulk=0.9), seed)
    found = CurvatureEstimator(config=EstimatorConfig.thorough(**QUICK)).estimate(problem)
    assert found.lambda_max.value == pytest.approx(1.0, rel=1e-3)
    assert found.lambda_min.value == pytest.approx(low, rel=1e-3)
    assert found.hessian_norm == pytest.approx(-low, rel=1e-3)


def test_no_norm_is_stated_from_a_start_that_was_given():
    matrix = torch.diag(ends(200, -2.0, 0, bulk=0.9).double())
    top = torch.eye(200, dtype=torch.float64)[0] + 1e-6
    given = {"generator": generator(0), "which": "max"}
    assert extreme_eigenvalues(DenseOperator(matrix), start=top, **given).low_seen is None
    assert extreme_eigenvalues(DenseOperator(matrix), **given).low_seen < -1.0


@pytest.mark.parametrize(
    ("low", "settle_norm", "norm"),
    [(-1.5, False, None), (-1.5, True, 1.5), (-0.1, False, 1.0), (-0.1, True, 1.0)],
)
def test_restarts_see_the_other_end_too(low, settle_norm, norm):
    """Five largest in little memory: the smallest of the five is not the smallest of all."""
    eigenvalues = ends(3000, low, 1, bulk=0.2)
    config = EstimatorConfig.thorough(
        ends="max",
        top_k=5,
        settle_norm=settle_norm,
        max_memory=15 * 4 * 3000,
        trace=False,
        frobenius=False,
    )
    found = CurvatureEstimator(config=config).estimate(bent(eigenvalues, 1))
    assert found.lambda_max.value == pytest.approx(1.0, rel=1e-3)
    assert found.hessian_norm == (None if norm is None else pytest.approx(norm, rel=1e-3))
    if norm == 1.5:
        assert found.lambda_min.value == pytest.approx(low, rel=1e-3)
    else:
        assert found.lambda_min is None
