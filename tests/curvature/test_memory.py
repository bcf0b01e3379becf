"""Peak tensor memory of a probe, against what torch itself takes on the same microbatch.

The unit is one forward and backward pass. A second derivative keeps the graph of the first: by
hand in plain torch that is 4.4 units for a small convolutional net with SiLU (2.5 with ReLU) and
3.1 for a transformer, attention in its differentiable form. The probe may add its vectors and
almost nothing else; below 2.5 units it stays with differences of gradients, or microbatches.
"""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from homotopy_cli.curvature.api import probe
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem

ONLY_TOP = {"top_k": 1, "blocks": False, "trace": False, "frobenius": False, "checks": False}
CHUNK = 32  # vectors that a basis takes at once


def conv():
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.SiLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(32 * 64, 10),
    )
    return net, torch.randn(64, 3, 16, 16)


def transformer():
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0, activation="gelu")
    body = nn.TransformerEncoder(layer, 3)
    net = nn.Sequential(nn.Linear(16, 64), body, nn.Flatten(), nn.Linear(64 * 32, 10))
    return net, torch.randn(32, 32, 16)


@pytest.fixture(params=[conv, transformer], ids=["conv", "transformer"])
def parts(request):
    torch.manual_seed(0)
    net, x = request.param()
    return net, x, torch.randint(10, (len(x),))


def peak(run):
    """The most bytes of tensors that `run` held at once, above those there before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def gradient(net, x, y, **settings):
    params = list(net.parameters())
    with sdpa_kernel(SDPBackend.MATH):
        return params, torch.autograd.grad(cross_entropy(net(x), y), params, **settings)


def product_by_hand(net, x, y):
    params, grads = gradient(net, x, y, create_graph=True)
    ones = [torch.ones_like(g) for g in grads]
    torch.autograd.grad(grads, params, ones, retain_graph=True)  # more products will follow


def vectors(net, count):
    return 4 * count * sum(p.numel() for p in net.parameters())


def test_the_largest_eigenvalue_takes_what_torch_takes_and_its_vectors(parts):
    net, x, y = parts
    problem = Problem.from_module(net, "cross_entropy", [(x, y)])
    by_hand = peak(lambda: product_by_hand(net, x, y))
    taken = peak(lambda: probe(problem, **ONLY_TOP))
    assert taken <= 1.05 * by_hand + vectors(net, CHUNK + 3)


def test_differences_of_gradients_stay_below_two_and_a_half_gradients(parts):
    net, x, y = parts
    problem = Problem.from_module(net, "cross_entropy", [(x, y)])
    unit = peak(lambda: gradient(net, x, y))
    taken = peak(lambda: probe(problem, hvp="forward_difference", **ONLY_TOP))
    assert taken <= 1.5 * unit + vectors(net, CHUNK + 3)


def test_the_whole_probe_holds_two_sets_of_vectors_at_most(parts):
    """Eigenvalues, traces, layers, checks, density: the graph once, Ritz vectors beside it."""
    net, x, y = parts
    problem = Problem.from_module(net, "cross_entropy", [(x, y)])
    by_hand = peak(lambda: product_by_hand(net, x, y))
    unit = peak(lambda: gradient(net, x, y))
    kept = []

    def run():
        kept.append(probe(problem, Partition.by_module(problem), density=True, max_probes=16))

    taken = peak(run)
    assert taken <= by_hand + 0.3 * unit + vectors(net, 2 * 64 + 8)


def test_microbatches_bound_the_peak(parts):
    """With the graph of one microbatch at a time the batch may be as large as it likes."""
    net, x, y = parts
    small = Problem.from_module(net, "cross_entropy", [(x[:16], y[:16])])
    pieces = list(zip(x.split(16), y.split(16), strict=True))
    large = Problem.from_module(net, "cross_entropy", pieces)
    settings = {**ONLY_TOP, "steps": 3, "cold_steps": 3, "keep_graph": False}
    one = peak(lambda: probe(small, **settings))
    many = peak(lambda: probe(large, **settings))
    assert many <= 1.1 * one + vectors(net, 4)
