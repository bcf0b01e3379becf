"""Power iteration: sign kept, honest about slow convergence."""

import pytest
import torch

from homotopy_cli.errors import NonFiniteError
from homotopy_cli.linalg.operator import DenseOperator
from homotopy_cli.linalg.power_iteration import power_iteration
from homotopy_cli.linalg.vectors import generator


def diagonal(*values):
    return DenseOperator(torch.diag(torch.tensor(values, dtype=torch.float64)))


def test_negative_dominant_keeps_its_sign():
    found = power_iteration(diagonal(1.0, -4.0, 2.0), generator=generator(0), rtol=1e-8)
    assert found.pairs[0].value == pytest.approx(-4.0, rel=1e-12)
    assert found.pairs[0].converged and found.n_matvecs < 50


def test_close_opposite_ends_are_said_not_converged():
    found = power_iteration(diagonal(2.9, -3.0, 0.5), generator=generator(0), max_matvecs=30)
    pair = found.pairs[0]
    assert not pair.converged and pair.residual > 0.5
    assert found.n_matvecs == 30


def test_zero_operator_is_zero():
    pair = power_iteration(diagonal(0.0, 0.0), generator=generator(0)).pairs[0]
    assert (pair.value, pair.residual, pair.converged) == (0.0, 0.0, True)


def test_nan_is_named():
    with pytest.raises(NonFiniteError, match="product 1 holds NaN"):
        power_iteration(diagonal(1.0, float("nan")), generator=generator(0))


def test_no_budget_is_a_programming_error():
    with pytest.raises(ValueError, match="max_matvecs"):
        power_iteration(diagonal(1.0), generator=generator(0), max_matvecs=0)
