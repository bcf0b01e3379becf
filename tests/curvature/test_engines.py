"""Operations that peers cannot differentiate twice, or do wrongly, against differences by hand.

The oracle knows nothing of the library: the model as its user runs it, ordinary `.backward()`
calls at shifted weights, and numpy's eigenvalues of the matrix that they make.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from homotopy_cli.curvature.api import probe
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem

STEP = 1e-5  # central differences in float64: error about 1e-10 of third derivatives


class Sampler(nn.Module):
    """A spatial transformer: trainable affine map, grid_sample, a linear head."""

    def __init__(self, mode):
        super().__init__()
        self.mode = mode
        self.theta = nn.Parameter(torch.tensor([[0.9, 0.1, 0.05], [-0.1, 1.1, -0.05]]))
        self.head = nn.Linear(25, 3)

    def forward(self, x):
        grid = F.affine_grid(self.theta.expand(len(x), 2, 3), (len(x), 1, 5, 5), False)
        return self.head(F.grid_sample(x, grid, self.mode, align_corners=False).flatten(1))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cells, self.head = kind(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(3, 12), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(mixed.squeeze(1)[:, -1])


class Checkpointed(nn.Module):
    """Activation checkpointing around half of it; the reentrant kind needs inputs with grad."""

    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.stem, self.inner, self.head = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        def half(h):
            return torch.tanh(self.inner(h))

        return self.head(checkpoint(half, self.stem(x), use_reentrant=self.reentrant))


class CompiledFunction(nn.Module):
    """The module is not compiled; a function that it calls is."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 5), nn.Linear(5, 3)
        self.act = torch.compile(lambda h: torch.tanh(h) * 2, backend="aot_eager")

    def forward(self, x):
        return self.head(self.act(self.stem(x)))


def mlp():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))


def compiled_inside():
    net = mlp()
    net[0] = torch.compile(net[0], backend="aot_eager")
    return net


def compiled_in_place():
    net = mlp()
    net[0].compile(backend="aot_eager")
    return net


MODELS = {
    "grid_sample bilinear": (lambda: Sampler("bilinear"), (1, 5, 5)),
    "grid_sample bicubic": (lambda: Sampler("bicubic"), (1, 5, 5)),
    "hardsigmoid": (
        lambda: nn.Sequential(nn.Linear(3, 6), nn.Hardsigmoid(), nn.Linear(6, 3)),
        (3,),
    ),
    "hardswish": (lambda: nn.Sequential(nn.Linear(3, 6), nn.Hardswish(), nn.Linear(6, 3)), (3,)),
    "LSTM": (lambda: Recurrent(nn.LSTM), (5, 3)),
    "GRU": (lambda: Recurrent(nn.GRU), (5, 3)),
    "fused attention": (Attention, (5, 3)),
    "checkpoint": (lambda: Checkpointed(False), (3,)),
    "reentrant checkpoint": (lambda: Checkpointed(True), (3,)),
    "torch.compile": (lambda: torch.compile(mlp(), backend="aot_eager"), (3,)),
    "compiled submodule": (compiled_inside, (3,)),
    "compiled in place": (compiled_in_place, (3,)),
    "compiled function": (CompiledFunction, (3,)),
}
DIFFERENCES = {"hardsigmoid": "hardsigmoid_backward is not implemented"}


def built(name):
    torch.manual_seed(7)
    make, shape = MODELS[name]
    return make().double(), torch.randn(6, *shape).double(), torch.randint(3, (6,))


def spectrum_by_hand(net, x, y):
    """Eigenvalues of the matrix of central differences of gradients; ascending."""
    params = [p for p in net.parameters() if p.requires_grad]
    flat = nn.utils.parameters_to_vector(params).detach()

    def gradient(at):
        nn.utils.vector_to_parameters(at, params)
        net.zero_grad()
        F.cross_entropy(net(x), y).backward()
        return torch.cat([p.grad.flatten() for p in params]).clone()

    rows = []
    for i in range(len(flat)):
        shift = torch.zeros_like(flat)
        shift[i] = STEP
        rows.append((gradient(flat + shift) - gradient(flat - shift)) / (2 * STEP))
    nn.utils.vector_to_parameters(flat, params)
    net.zero_grad()
    h = torch.stack(rows).numpy()
    return np.linalg.eigvalsh(0.5 * (h + h.T))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo, of its inputs
def test_both_ends_are_those_of_differences_by_hand(name):
    net, x, y = built(name)
    wanted = spectrum_by_hand(net, x, y)
    problem = Problem.from_module(net, "cross_entropy", [(x, y)])
    found = probe(problem, trace=False, frobenius=False)
    assert found.converged
    assert found.lambda_max.value == pytest.approx(wanted[-1], rel=1e-6)
    assert found.lambda_min.value == pytest.approx(wanted[0], rel=1e-6, abs=1e-7 * wanted[-1])
    if name in DIFFERENCES:
        assert found.cost.method == "central_difference"
        assert DIFFERENCES[name] in found.cost.fallback_reason
        assert any("central differences" in words for words in found.warnings)
    else:
        assert found.cost.method == "double_backward" and found.cost.fallback_reason == ""
        assert found.warnings == ()


@pytest.mark.parametrize("method", ["central_difference", "forward_difference"])
@pytest.mark.parametrize("name", ["reentrant checkpoint", "compiled function", "LSTM"])
def test_differences_agree_where_they_are_asked_for(name, method):
    net, x, y = built(name)
    problem = Problem.from_module(net, "cross_entropy", [(x, y)])
    exact = probe(problem, trace=False, frobenius=False, blocks=False)
    found = probe(problem, trace=False, frobenius=False, blocks=False, hvp=method, rtol=1e-5)
    assert found.cost.method == method
    rel = 1e-6 if method == "central_difference" else 1e-4
    assert found.lambda_max.value == pytest.approx(exact.lambda_max.value, rel=rel)


def test_reentrant_blocks_are_reached_layer_by_layer():
    net, x, y = built("reentrant checkpoint")
    problem = Problem.from_module(net, "cross_entropy", [(x, y)])
    found = probe(problem, Partition.by_module(problem), trace=False, frobenius=False)
    assert {b.name: b.state for b in found.blocks} == dict.fromkeys(
        ("stem", "inner", "head"), "reached"
    )


def test_the_users_checkpointing_is_given_back():
    import torch.utils.checkpoint as module

    kept = module.CheckpointFunction
    net, x, y = built("reentrant checkpoint")
    problem = Problem.from_module(net, "cross_entropy", [(x, y)])
    probe(problem, trace=False, frobenius=False, blocks=False)
    assert module.CheckpointFunction is kept
    F.cross_entropy(net(x), y).backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
