"""Which losses a probe may measure in chunks of rows: those whose gradients add up, too."""

import pytest
import torch
from torch import nn

from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.problem import Problem

F64 = torch.float64


def batch(n=64, size=1.0, dtype=torch.float32):
    torch.manual_seed(1)
    x = torch.randn(n, 6)
    x[: n // 2] += 3
    return (x * torch.arange(1, 7)).to(dtype), (size * torch.randn(n, 1)).to(dtype)


def normalised(dtype=torch.float32):
    torch.manual_seed(2)
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1))
    with torch.no_grad():
        model[3].weight.mul_(0.02)
        model[3].bias.zero_()
    return model.to(dtype)


@pytest.mark.parametrize("rows", [4, 16])
@pytest.mark.parametrize("size", [1e-6, 1e-2, 1.0, 1e4])
def test_batch_statistics_are_refused_however_small_the_loss(rows, size):
    """A law: the loss scales as size², and whether its chunks are exact does not."""
    model = normalised()
    with torch.no_grad():
        model[3].weight.mul_(size)
    with pytest.raises(ProblemError, match="--microbatch"):
        Problem.from_module(model, "mse", [batch(size=size)], mode="train", microbatch=rows)
    Problem.from_module(model, "mse", [batch(size=size)], microbatch=rows)  # eval: rows apart


def test_a_loss_that_agrees_while_its_gradient_does_not_is_refused():
    """At weight 0 the loss is the mean of y², whatever the rows' mean that the model takes off."""

    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 1, bias=False, dtype=F64)
            nn.init.zeros_(self.linear.weight)

        def forward(self, x):
            return self.linear(x - x.mean(0))

    with pytest.raises(ProblemError, match=r"--microbatch 8 changes the gradient by .* its length"):
        Problem.from_module(Centred(), "mse", [batch(dtype=F64)], microbatch=8)


def test_equal_chunks_do_not_hide_batch_statistics():
    """Every chunk is the same: loss and gradient agree, and second derivatives need not."""
    x, y = batch(8)
    with pytest.raises(ProblemError, match=r'--microbatch 8: module "0" normalises by the stat'):
        Problem.from_module(
            normalised(), "mse", [(x.repeat(4, 1), y.repeat(4, 1))], mode="train", microbatch=8
        )


def test_a_loss_near_zero_may_still_be_cut():
    """Of a fitted classifier the mean loss is 1e-6: rounding of single rows is no coupling."""
    torch.manual_seed(3)
    model = nn.Linear(6, 4)
    x = torch.randn(64, 6)
    with torch.no_grad():
        model.weight.mul_(300)
        y = model(x).argmax(1)
    whole = Problem.from_module(model, "cross_entropy", [(x, y)])
    parts = Problem.from_module(model, "cross_entropy", [(x, y)], microbatch=16)
    assert len(parts.batches) == 4 and whole.n_terms == parts.n_terms
