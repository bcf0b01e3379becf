"""Validation against float64 where it disagrees with the float32 estimate."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from homotopy_cli.curvature.api import probe, validate
from homotopy_cli.curvature.validate import validate as compared
from homotopy_cli.linalg.vectors import generator
from homotopy_cli.problems.problem import Problem


class Other(nn.Module):
    """Twice the output in float32: a fault that float32 beside itself cannot show."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) * (2.0 if x.dtype == torch.float32 else 1.0)


def batch():
    draw = generator(0)
    return torch.randn(16, 4, generator=draw), torch.randn(16, 3, generator=draw)


def rows_of(problem, **config):
    return {row.quantity: row for row in validate(problem, **config)}


def test_another_function_in_float64_cannot_pass():
    """Oracle: the loss by hand in either dtype."""
    torch.manual_seed(0)
    model, (x, y) = Other(), batch()
    rows = rows_of(Problem.from_module(model, "mse", [(x, y)]))
    out = x.double() @ model.layer.weight.double().T + model.layer.bias.double()
    assert rows["loss"].exact == pytest.approx(F.mse_loss(out, y.double()).item(), rel=1e-12)
    assert rows["loss"].estimate == pytest.approx(F.mse_loss(2 * out, y.double()).item(), rel=1e-6)
    assert rows["loss"].within_bound is False and rows["loss"].exact_dtype == "float64"
    found = probe(Problem.from_module(model, "mse", [(x, y)]))
    assert any("in float64 it differs" in w for w in found.warnings)
    assert found.lambda_max.residual >= 0.7 * found.lambda_max.value  # it is 4 times too large


def test_a_gradient_that_cancels_stands_beside_float64s():
    """Its measured error covers it; without the measurement the row says no."""
    draw = generator(0)
    x, w = torch.randn(64, 8, generator=draw), torch.randn(5, 8, generator=draw)
    top = (x @ w.T).topk(2, 1)
    kept = top.values[:, 0] - top.values[:, 1] > 1.0
    model, y = nn.Linear(8, 5), top.indices[:, 0]
    with torch.no_grad():
        model.weight.copy_(12 * w)
        model.bias.zero_()
    problem = Problem.from_module(model, "cross_entropy", [(x[kept], y[kept])])
    assert rows_of(problem)["grad_norm"].within_bound is True
    rows = {r.quantity: r for r in compared(problem, probe(problem, checks=False))}
    assert rows["grad_norm"].within_bound is False


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


def test_other_random_numbers_in_float64_are_no_disagreement():
    """Nothing is learnt from them: the estimate is compared with its own dtype, as it says."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), Noisy(), nn.Linear(8, 3))
    rows = rows_of(Problem.from_module(model, "mse", [batch()]))
    assert "loss" not in rows and rows["lambda_max"].exact_dtype == "float32"
    assert all(row.within_bound for row in rows.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_both_agree_no_row_is_added(dtype):
    torch.manual_seed(0)
    rows = rows_of(Problem.from_module(nn.Linear(4, 3), "mse", [batch()], dtype=dtype))
    assert "loss" not in rows and "grad_norm" not in rows
    assert all(row.within_bound and row.exact_dtype == "float64" for row in rows.values())
