"""The core on a CUDA device: the CPU's numbers, on the kernels a GPU takes, without a trace."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from homotopy_cli.curvature.api import probe
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class Attending(nn.Module):
    """Fused attention, dropout, a norm: what has special kernels on a GPU."""

    def __init__(self):
        super().__init__()
        self.qkv, self.norm, self.head = nn.Linear(8, 24), nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x):
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1)
        return self.head(self.norm(mixed)[:, -1])


class Recurrent(nn.Module):
    """cuDNN's LSTM has no second derivative."""

    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])


class Convolutional(nn.Module):
    """cuDNN's convolutions and batch norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(7, 6, 3), nn.BatchNorm1d(6)
        self.head = nn.Linear(36, 5)

    def forward(self, x):
        return self.head(torch.tanh(self.norm(self.conv(x))).flatten(1))


MODELS = {"attention": Attending, "lstm": Recurrent, "conv": Convolutional}


def pair(name, dtype):
    """The same problem on both devices."""
    torch.manual_seed(3)
    net = MODELS[name]().to(dtype)
    x, y = torch.randn(9, 7, 8, dtype=dtype), torch.randint(5, (9,))
    there = copy.deepcopy(net).cuda()
    here = Problem.from_module(net, "cross_entropy", [(x, y)])
    return here, Problem.from_module(there, "cross_entropy", [(x.cuda(), y.cuda())])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype, rel", [(torch.float64, 1e-8), (torch.float32, 1e-3)])
def test_every_number_is_the_cpus(name, dtype, rel):
    here, there = pair(name, dtype)
    a = probe(here, Partition.by_module(here), density=True)
    b = probe(there, Partition.by_module(there), density=True)
    assert b.cost.method == "double_backward" and b.converged == a.converged
    for key in ("loss", "grad_norm", "hessian_norm", "kappa"):
        assert getattr(b, key) == pytest.approx(getattr(a, key), rel=rel), key
    assert b.lambda_min.value == pytest.approx(a.lambda_min.value, abs=rel * a.hessian_norm)
    assert b.trace.value == pytest.approx(a.trace.value, rel=10 * rel)
    assert b.frobenius_norm.value == pytest.approx(a.frobenius_norm.value, rel=rel)
    for one, other in zip(a.blocks, b.blocks, strict=True):
        assert other.lambda_max == pytest.approx(one.lambda_max, abs=rel * a.hessian_norm)
        assert other.kappa == pytest.approx(one.kappa, rel=10 * rel)


@pytest.mark.parametrize("method", ["forward_over_reverse", "central_difference"])
def test_other_engines_agree(method):
    _, there = pair("attention", torch.float64)
    settings = {"trace": False, "frobenius": False, "blocks": False}
    exact = probe(there, **settings)
    other = probe(there, hvp=method, **settings)
    assert other.cost.method == method
    assert other.lambda_max.value == pytest.approx(exact.lambda_max.value, rel=1e-6)


def test_nothing_is_left_behind():
    _, there = pair("conv", torch.float32)
    model = there.model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    cpu, cuda = torch.get_rng_state(), torch.cuda.get_rng_state()
    probe(there, Partition.by_module(there))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), cpu)
    assert torch.equal(torch.cuda.get_rng_state(), cuda)
    assert all(p.grad is None for p in model.parameters())


def test_half_precision_weights_are_lifted():
    _, there = pair("attention", torch.float32)
    half = copy.deepcopy(there.model).bfloat16()
    x, y = there.batches[0]
    found = probe(Problem.from_module(half, "cross_entropy", [(x, y)]), blocks=False)
    assert found.dtype == "float32" and found.converged
    assert found.lambda_max.value == pytest.approx(
        probe(there, blocks=False).lambda_max.value, rel=0.1
    )
