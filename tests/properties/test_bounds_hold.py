"""No converged value lies outside its own bound: random networks against their dense Hessians.

With `refine_small`, as a probe of a small model is, an end is *the* end to within its residual.
Without it, as for a large model, some eigenvalue lies that near for certain; that it is the
extreme one rests on the random start, and here it may be missed by ten tolerances at most.

Run `HYPOTHESIS_DRAWS=1000 pytest tests/properties/test_bounds_hold.py` for the long form.
"""

import os

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import dense as oracle
from torch import nn

from homotopy_cli.curvature.api import probe
from homotopy_cli.linalg.vectors import generator
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem

DRAWS = int(os.environ.get("HYPOTHESIS_DRAWS", "30"))
bounded = settings(
    max_examples=DRAWS, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


class Attention(nn.Module):
    """Tied embedding and head, one causal attention layer, LayerNorm."""

    def __init__(self, width, tied):
        super().__init__()
        self.token = nn.Embedding(7, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, 7, bias=False)
        if tied:
            self.head.weight = self.token.weight

    def forward(self, tokens):
        x = self.token(tokens)
        q, k, v = self.qkv(self.norm(x)).unsqueeze(1).chunk(3, dim=-1)
        x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1)
        return self.head(x)


def build(kind, width, draw):
    if kind == "mlp":
        model = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 4))
        return model, lambda n: torch.randn(n, 3, generator=draw, dtype=torch.float64)
    if kind == "conv":
        model = nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.GELU(), nn.Flatten()
        )
        model.append(nn.Linear(4 * width, 4))
        return model, lambda n: torch.randn(n, 1, 4, 4, generator=draw, dtype=torch.float64)
    return Attention(width, kind == "tied"), lambda n: torch.randint(0, 7, (n, 5), generator=draw)


def loss_of(model, batch):
    x, y = batch
    return F.cross_entropy(model(x).flatten(0, -2), y.flatten())


@bounded
@given(
    kind=st.sampled_from(["mlp", "conv", "attention", "tied"]),
    width=st.integers(2, 4),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    scale=st.sampled_from([0.3, 1.0, 4.0]),
    rtol=st.sampled_from([1e-2, 1e-3, 1e-6]),
    refine=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_converged_values_lie_inside_their_bounds(kind, width, sizes, scale, rtol, refine, seed):
    draw = generator(seed)
    torch.manual_seed(seed)
    model, inputs = build(kind, width, draw)
    model = model.double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    batches = []
    for n in sizes:
        x = inputs(n)
        y = torch.randint(0, 4, (n, 5) if x.dtype == torch.int64 else (n,), generator=draw)
        batches.append((x, y))
    problem = Problem.from_module(model, loss_of, batches)
    exact, error = dense(kind, model, batches)
    spectrum = torch.linalg.eigvalsh(exact)
    found = probe(problem, Partition.by_parameter(problem), rtol=rtol, refine_small=refine)
    top = spectrum.abs().max()
    slack = error * top
    check = within if refine else near
    for value, truth in ((found.lambda_max, spectrum[-1]), (found.lambda_min, spectrum[0])):
        assert value.converged
        check(value.value, value.residual + slack, truth, spectrum, 10.0 * rtol * top)
    for pair in found.eigenvalues:
        if pair.converged:
            assert (spectrum - pair.value).abs().min() <= pair.residual + slack
    if found.trace.n_probes == 0:
        assert abs(found.trace.value - exact.trace()) <= (1e-10 + error) * top * len(exact)
    for block in found.blocks:
        if block.hessian_norm is None or not block.converged:
            continue
        part = torch.linalg.eigvalsh(exact[rows(problem, block)][:, rows(problem, block)])
        for value, truth in ((block.lambda_max, part[-1]), (block.lambda_min, part[0])):
            check(value, block.residual + slack, truth, part, 10.0 * rtol * part.abs().max())


def within(value, bound, truth, spectrum, tolerance):
    """The end itself lies within its bound."""
    assert abs(value - truth) <= bound


def near(value, bound, truth, spectrum, tolerance):
    """Some eigenvalue does, and the end is not far."""
    assert (spectrum - value).abs().min() <= bound
    assert abs(value - truth) <= max(bound, tolerance)


def dense(kind, model, batches):
    """The Hessian of the mean over all targets, and how far the oracle itself may be off."""
    f, theta = oracle.objective(model, loss_of, batches, [y.numel() for _, y in batches])
    if kind in ("mlp", "conv"):
        return oracle.functorch_hessian(f, theta), 1e-13
    h = torch.autograd.functional.hessian(f, theta)  # torch.func's is wrong through LayerNorm
    return 0.5 * (h + h.T), 1e-11


def rows(problem, block):
    """Indices of a block's parameters in the flat vector."""
    at, index = 0, {}
    for name, count in problem.numels.items():
        index[name] = range(at, at + count)
        at += count
    return torch.tensor([i for name in block.parameters if name in index for i in index[name]])
