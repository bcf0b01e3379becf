"""What an estimate says it took, on clocks that tick as the test wants: no test is timed."""

import itertools
import json

import pytest
import torch
from torch import nn

from homotopy_cli.cli.document import estimate_document
from homotopy_cli.cli.probing import QUICK
from homotopy_cli.cli.sentences import closing
from homotopy_cli.curvature.api import probe
from homotopy_cli.curvature.meter import Meter, clock_of, fastest
from homotopy_cli.linalg.vectors import generator
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem


@pytest.fixture
def small():
    """A tanh net of 43 parameters, in float64."""
    draw = generator(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=draw, dtype=torch.float64))
    x = torch.randn(16, 4, generator=draw, dtype=torch.float64)
    y = torch.randint(3, (16,), generator=draw)
    return Problem.from_module(net, "cross_entropy", [(x, y)])


def ticking(monkeypatch, step):
    """Every reading of the clock is `step` later than the last."""
    ticks = itertools.count()

    def time_on(self, device):
        self.basis, self.clock = "cpu_time", lambda: step * next(ticks)

    monkeypatch.setattr(Meter, "time_on", time_on)


def test_a_kind_of_product_costs_its_fastest_time_as_often_as_it_was_taken():
    meter, readings = Meter(), iter([0.0, 9.0, 10.0, 12.0, 20.0, 23.0, 30.0, 31.0])
    meter.clock = lambda: next(readings)
    for kind in ("whole", "whole", "whole", "layer"):
        with meter.product(kind, 1.0 if kind == "whole" else 0.25):
            pass
    assert meter.seconds() == 3 * 2.0 + 1.0
    assert meter.n_products == 4 and meter.n_whole == 3.25


def test_a_failed_product_is_counted_and_not_timed():
    meter = Meter()
    meter.clock = iter([0.0, 1.0]).__next__
    with pytest.raises(RuntimeError), meter.product("whole"):
        raise RuntimeError
    assert meter.n_products == 1 and meter.seconds() == 0.0


def test_products_are_set_against_a_gradient_and_overhead_is_not(small, monkeypatch):
    """One tick for each product and for each gradient: then the cost is their number."""
    ticking(monkeypatch, 1.0)
    cost = probe(small, Partition.by_module(small)).cost
    assert cost.basis == "cpu_time"
    # the graph; two gradients to find the step's length, twice two beside the parameters
    assert cost.gradient_equivalents == cost.n_hvp + 7


def test_the_cost_is_never_below_what_was_counted(small, monkeypatch):
    """A clock that stands still."""
    ticking(monkeypatch, 0.0)
    cost = probe(small, Partition.by_module(small)).cost
    assert cost.gradient_equivalents == pytest.approx(7 + cost.n_hvp_weighted)


def test_the_clock_of_a_cpu_is_not_the_wall_s():
    basis, clock = clock_of(torch.device("cpu"))
    assert basis == "cpu_time" and clock() <= clock()
    assert fastest(lambda: None, iter([0, 3, 10, 11, 20, 22]).__next__, enough=0.0) == 1


def test_products_of_layers_count_one_each(small):
    partition = Partition.by_module(small)
    estimate = probe(small, partition)
    without = probe(small, None).cost
    of_layers = sum(block.n_hvp for block in estimate.blocks)
    assert of_layers > 0
    assert estimate.cost.n_hvp == without.n_hvp + of_layers
    assert without.n_hvp == without.n_hvp_weighted
    assert without.n_hvp < estimate.cost.n_hvp_weighted < estimate.cost.n_hvp


def test_json_and_sentence_say_what_was_counted_and_how(small):
    estimate = probe(small, Partition.by_module(small))
    said = json.loads(json.dumps(estimate_document(estimate)))["hvp"]
    assert isinstance(said["n_hvp"], int) and said["n_hvp"] == estimate.cost.n_hvp
    assert said["n_hvp_weighted"] == pytest.approx(estimate.cost.n_hvp_weighted)
    assert said["gradient_equivalents_basis"] == "cpu_time"
    of_layers = sum(block.n_hvp for block in estimate.blocks)
    assert closing(estimate)[0].startswith(
        f"{said['n_hvp']:,} Hessian-vector products, {of_layers:,} of them of single layers "
        f"(double backward) = {said['gradient_equivalents']:,.0f} gradients by CPU time, "
    )


@pytest.mark.parametrize("cap", [1, 3, 4, 20, 42])
@pytest.mark.parametrize("quick", [False, True])
def test_a_cap_on_products_holds_where_a_small_model_would_be_exact(small, cap, quick):
    """The whole, each layer and the traces keep to it; the two tests of the products are extra."""
    changes = QUICK | {"settle_norm": False} if quick else {"density": True}
    blocks = None if quick else Partition.by_module(small)
    estimate = probe(small, blocks, max_hvp=cap, **changes)
    assert all(block.n_hvp <= cap for block in estimate.blocks)
    of_layers = sum(block.n_hvp for block in estimate.blocks)
    sums = 0 if quick else max(2, cap) + max(2, cap)  # at least two random vectors each
    assert estimate.cost.n_hvp <= 2 + cap + sums + of_layers
    if cap < 20:
        assert not estimate.converged
    if not quick:
        assert estimate.trace.n_probes in range(2, max(2, cap) + 1)


def test_without_a_cap_a_small_model_is_exact(small):
    estimate = probe(small, Partition.by_module(small))
    assert estimate.converged and estimate.trace.n_probes == 0
