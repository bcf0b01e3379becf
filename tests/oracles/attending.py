"""A layer that attends any way it is told to, and its logits written out from its weights."""

import math

import pytest
import torch
from torch import nn

from homotopy_cli.curvature.components import measure_components
from homotopy_cli.problems.problem import Problem
from oracles.attention import attention, causal

BATCH, HEADS, LENGTH, SIZE = 3, 2, 5, 4
SEES = causal(LENGTH, LENGTH)
PADDING = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4])
BIAS = torch.linspace(-2, 1, HEADS * LENGTH * LENGTH).double().reshape(HEADS, LENGTH, LENGTH)
SLOPES = torch.tensor([0.5, 0.25], dtype=torch.float64)
ALIBI = SLOPES[:, None, None] * -(torch.arange(5.0)[:, None] - torch.arange(5.0)).abs().double()


class Attending(nn.Module):
    """Projections without bias, then `way(q, k, v)` on (batch, heads, length, size)."""

    def __init__(self, way, key_heads: int = HEADS) -> None:
        super().__init__()
        self.way = way
        self.query = nn.Linear(6, HEADS * SIZE, bias=False)
        self.key = nn.Linear(6, key_heads * SIZE, bias=False)
        self.value = nn.Linear(6, key_heads * SIZE, bias=False)

    def forward(self, x):
        parts = (self.query(x), self.key(x), self.value(x))
        return self.way(*(t.unflatten(-1, (-1, SIZE)).transpose(1, 2) for t in parts))


def outputs_squared(model, x):
    return model(x).square().mean()


def inputs():
    """(batch, length, 6), of a size at which attention is not uniform."""
    torch.manual_seed(2)
    return 3 * torch.randn(BATCH, LENGTH, 6, dtype=torch.float64)


def build(way, *, key_heads=HEADS):
    """The same weights for every way to attend."""
    torch.manual_seed(5)
    return Attending(way, key_heads).double()


def by_hand(model, x):
    """q·k over heads, one multiplication at a time: (batch, heads, rows, keys), not scaled."""
    q = torch.stack([example @ model.query.weight.T for example in x])
    k = torch.stack([example @ model.key.weight.T for example in x])
    q = torch.stack(q.detach().split(SIZE, -1), 1)
    k = torch.stack(k.detach().split(SIZE, -1), 1)
    k = torch.stack([k[:, h * k.shape[1] // HEADS] for h in range(HEADS)], 1)
    return (q[:, :, :, None, :] * k[:, :, None, :, :]).sum(-1)


def check(model, x, logits, *, rtol=1e-10, mode="eval"):
    """The one attention site of the model has the statistics of `logits`, per head too."""
    found = measure_components(Problem.from_module(model, outputs_squared, [x], mode=mode))
    assert found.notes == ()
    (site,) = found.attention
    want = attention(logits)
    assert site.n_heads == logits.shape[1]
    assert site.max_logit == pytest.approx(want.max_logit, rel=rtol)
    assert site.entropy == pytest.approx(want.entropy, rel=rtol)
    assert site.entropy_normalised == pytest.approx(want.entropy_normalised, rel=rtol)
    assert site.head_max_logit == pytest.approx(want.head_max_logit, rel=rtol)
    assert site.head_entropy == pytest.approx(want.head_entropy, rel=rtol)
    assert site.seed_kappa == pytest.approx(math.exp(2 * want.max_logit), rel=1e-6)
    return found
