"""Adaptive, per-layer, warmup and facade: what each adds to HomotopyLR."""

import itertools
import math

import pytest
import torch
from setups import DUMMY, Quadratic, batches, network, quadratic_loss, train
from torch import nn

from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.criteria import resolve_loss
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem
from homotopy_cli.records import LR_REASONS
from homotopy_cli.schedulers.adaptive import LEAST, MARGIN, AdaptiveHomotopyLR
from homotopy_cli.schedulers.facade import CurvatureAdaptiveLR
from homotopy_cli.schedulers.per_layer import PerLayerHomotopyLR
from homotopy_cli.schedulers.slices import least_rows, take_rows
from homotopy_cli.schedulers.warmup import CurvatureWarmup


def drive(scheduler, model, optimizer, steps, before=None, batch=DUMMY):
    used = []
    for step in range(steps):
        if before is not None:
            before(step)
        optimizer.zero_grad()
        quadratic_loss(model, batch).backward()
        scheduler.update_curvature(batch=batch)
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return used


# ---------------------------------------------------------------------- adaptive


def test_adaptive_first_rate_is_not_zero_and_warms_up_linearly():
    model = Quadratic([1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = AdaptiveHomotopyLR(optimizer, model, quadratic_loss, warmup_steps=5)
    used = drive(scheduler, model, optimizer, 7)
    assert used == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.1])


def test_adaptive_warmup_defaults_to_a_tenth_of_the_run():
    model = Quadratic([1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert AdaptiveHomotopyLR(optimizer, model, quadratic_loss, total_steps=300).warmup_steps == 30
    assert AdaptiveHomotopyLR(optimizer, model, quadratic_loss).warmup_steps == 1000


def test_adaptive_target_goes_to_twice_the_usual_edge_ratio_by_bounded_moves():
    """λ = 10 at rate 0.02: ρ = 0.1 throughout, so the target heads for 0.2 by 5 % a probe."""
    model = Quadratic([10.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    scheduler = AdaptiveHomotopyLR(
        optimizer,
        model,
        quadratic_loss,
        warmup_steps=0,
        adaptation_rate=0.05,
        budget=math.inf,
        longest=1,
        estimation_freq=1,
    )
    targets = []
    for _ in range(60):
        drive(scheduler, model, optimizer, 1)
        targets.append(scheduler.curvature_target)
    moves = [abs(math.log(b / a)) for a, b in itertools.pairwise(targets)]
    assert targets[LEAST - 2] == 0.9
    assert max(moves) <= 0.05 + 1e-12
    assert targets[-1] == pytest.approx(MARGIN * 0.1, rel=1e-3)


def test_adaptive_does_not_learn_from_a_spike():
    model = Quadratic([10.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    scheduler = AdaptiveHomotopyLR(
        optimizer, model, quadratic_loss, warmup_steps=0, budget=math.inf, longest=1,
        estimation_freq=1, target=1.0, adaptation_rate=0.5,
    )  # fmt: skip
    drive(scheduler, model, optimizer, 40)
    learned = scheduler.curvature_target
    model.eigenvalues.fill_(1000.0)
    used = drive(scheduler, model, optimizer, 2)
    assert scheduler.curvature_target == pytest.approx(learned)
    assert used[1] == pytest.approx(learned * 2.0 / 1000.0, rel=1e-3)


def test_adaptive_learns_a_kappa_target_for_the_founding_signal():
    model = Quadratic([10.0, 1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer.param_groups[0]["lr"] = 1e-9  # stands still: κ is constant
    scheduler = AdaptiveHomotopyLR(
        optimizer, model, quadratic_loss, signal="kappa", warmup_steps=0, budget=math.inf,
        longest=1, estimation_freq=1,
    )  # fmt: skip
    drive(scheduler, model, optimizer, 20)
    assert scheduler.curvature_target == pytest.approx(MARGIN * 10.0 / 101.0, rel=1e-3)


@pytest.mark.parametrize("bad", [{"adaptation_rate": 0.0}, {"percentile": 101.0}])
def test_adaptive_refuses_impossible_numbers(bad):
    model = Quadratic([1.0])
    with pytest.raises(ValueError, match=next(iter(bad))):
        AdaptiveHomotopyLR(torch.optim.SGD(model.parameters(), lr=1), model, quadratic_loss, **bad)


# ---------------------------------------------------------------------- per layer


class Blocks(nn.Module):
    """Three layers with known curvature 1, 16 and 10⁴ that do not interact."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = Quadratic([1.0]), Quadratic([16.0]), Quadratic([1e4])

    def forward(self, batch):
        return self.a(batch) + self.b(batch) + self.c(batch)


def test_per_layer_factors_are_the_clipped_square_roots_and_reach_the_optimizer():
    model = Blocks()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    scheduler = PerLayerHomotopyLR(
        optimizer, model, quadratic_loss, burst=2, layers_freq=1, budget=math.inf
    )
    assert [group["layer"] for group in optimizer.param_groups] == ["a", "b", "c"]
    drive(scheduler, model, optimizer, 6)
    expected = {"a": 4.0, "b": 1.0, "c": 0.25}  # (16/1)^½ = 4; (16/1e4)^½ = 0.04 -> 0.25
    assert scheduler.multipliers == pytest.approx(expected, rel=1e-4)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([4e-6, 1e-6, 0.25e-6], rel=1e-4)
    assert LR_REASONS[scheduler.lr_reason] == "per_group"
    assert scheduler.layer_rates()["c"] == pytest.approx(0.25e-6, rel=1e-4)


def test_per_layer_edge_is_that_of_the_scaled_groups():
    """Rates 4η, η, η/4 on λ = 1, 16, 1e4: the edge of the largest rate is at max λ·η_b/η_max."""
    model = Blocks()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = PerLayerHomotopyLR(
        optimizer, model, quadratic_loss, burst=2, layers_freq=1, budget=math.inf, target=0.5,
        floor=1e-9,
    )  # fmt: skip
    drive(scheduler, model, optimizer, 12)
    top = 1e4 * 0.25 / 4.0
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates[2] * 1e4 / 2.0 <= 0.5 * (1 + 1e-6)  # the sharpest layer is inside the edge
    assert scheduler.last_probe["preconditioned_sharpness"] == pytest.approx(top, rel=1e-3)


def test_per_layer_groups_keep_options_state_and_names():
    model = network()
    optimizer = torch.optim.AdamW(
        [
            {"params": list(model[0].named_parameters("0")), "weight_decay": 0.5},
            {"params": [("w", model[4].weight), ("b", model[4].bias)]},
        ],
        lr=0.01,
    )
    x, y = batches(1)[0]
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    moment = optimizer.state[model[4].weight]["exp_avg"]
    PerLayerHomotopyLR(optimizer, model, nn.CrossEntropyLoss())
    assert [g["layer"] for g in optimizer.param_groups] == ["0", "4"]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.5, 0.01]
    assert optimizer.param_groups[1]["param_names"] == ["w", "b"]
    assert optimizer.state[model[4].weight]["exp_avg"] is moment


def test_per_layer_blocks_are_those_of_the_partition():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    PerLayerHomotopyLR(optimizer, model, nn.CrossEntropyLoss())
    problem = Problem.from_module(model, "cross_entropy", [batches(1)[0]])
    partition = Partition.by_module(problem)
    assert [g["layer"] for g in optimizer.param_groups] == [b.name for b in partition.blocks]


def test_per_layer_founding_call():
    model = network()
    scheduler = PerLayerHomotopyLR(model, nn.CrossEntropyLoss(), base_lr=0.01)
    rates = scheduler.get_per_layer_lr(*batches(1)[0])
    assert set(rates) == {"0", "1", "4"}
    assert sorted(rates.values())[1] == pytest.approx(0.01)  # the median layer keeps base_lr
    assert rates == {g["layer"]: g["lr"] for g in scheduler.optimizer.param_groups}


def test_per_layer_needs_the_model():
    with pytest.raises(TypeError, match="its modules are the layers"):
        PerLayerHomotopyLR(torch.optim.SGD(network().parameters(), lr=0.1))


# ---------------------------------------------------------------------- warmup


def test_warmup_rises_geometrically_and_hands_over():
    model = Quadratic([1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = CurvatureWarmup(
        optimizer, model, quadratic_loss, target_lr=0.2, warmup_steps=20, budget=math.inf
    )
    used = drive(scheduler, model, optimizer, 100)
    assert used[0] == pytest.approx(0.002)
    assert used[10] == pytest.approx(0.2 * 100 ** (-10 / 20), rel=1e-6)
    assert used[25] == pytest.approx(0.2)
    assert scheduler.finished
    assert "WARMUP_DONE" in [e.code for e in scheduler.drain_events()]
    probes = scheduler.n_probes
    drive(scheduler, model, optimizer, 40)
    assert scheduler.n_probes == probes


def test_warmup_holds_inside_the_band_and_never_reaches_a_rate_beyond_the_edge():
    """λ = 100, target rate 0.1: ρ = 5 there. It must stop where ρ = rise_below: 0.005."""
    model = Quadratic([100.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = CurvatureWarmup(optimizer, model, quadratic_loss, warmup_steps=20)
    used = drive(scheduler, model, optimizer, 120)
    assert max(used) * 100.0 / 2.0 <= 0.25 * 100 ** (1 / 20) + 1e-9
    assert used[-1] * 100.0 / 2.0 >= 0.25
    assert not scheduler.finished


def test_warmup_falls_when_curvature_rises():
    model = Quadratic([1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scheduler = CurvatureWarmup(
        optimizer, model, quadratic_loss, warmup_steps=10, budget=math.inf, estimation_freq=1,
        longest=1, rise_below=0.2,
    )  # fmt: skip
    used = drive(scheduler, model, optimizer, 11)
    model.eigenvalues.fill_(50.0)
    after = drive(scheduler, model, optimizer, 3)
    assert after[1] * 50.0 / 2.0 <= 0.9 + 1e-6 < used[-1] * 50.0 / 2.0


def test_warmup_founding_call_sets_the_rate_it_returns():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    warmup = CurvatureWarmup(
        optimizer, model, nn.CrossEntropyLoss(), target_lr=1e-3, warmup_steps=10
    )
    returned = []
    for x, y in batches(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        returned.append(warmup.step(x, y))
        assert optimizer.param_groups[0]["lr"] == returned[-1]
        optimizer.step()
    assert returned[0] == pytest.approx(1e-5)
    assert returned[-1] > returned[0]


# ---------------------------------------------------------------------- facade


class WithLoss(nn.Module):
    """A model that returns its loss, in the three usual ways."""

    def __init__(self, kind):
        super().__init__()
        self.net, self.kind = network(dropout=0.0), kind

    def forward(self, batch, *, scale=1.0):
        x, y = batch
        loss = scale * nn.functional.cross_entropy(self.net(x), y)
        if self.kind == "dict":
            return {"loss": loss, "logits": None}
        return loss


@pytest.mark.parametrize("kind", ["tensor", "dict"])
def test_facade_founding_loop(kind):
    model = WithLoss(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    scheduler = CurvatureAdaptiveLR(
        optimizer, model, base_lr=0.4, curvature_target=1e3, adaptation_rate=0.1, budget=0.5
    )
    for batch in batches(12):
        optimizer.zero_grad()
        result = model(batch, scale=2.0)
        loss = result["loss"] if kind == "dict" else result
        loss.backward()
        scheduler.step(loss)
        optimizer.step()
    assert scheduler.n_probes >= 6  # steps 0, 1, 2, 3, 4 and 8 in any case
    assert scheduler.last_epoch == 11
    assert optimizer.param_groups[0]["lr"] < 0.4
    assert scheduler.get_last_lr() == [optimizer.param_groups[0]["lr"]]


def test_facade_measures_the_captured_batch():
    """The same λ as HomotopyLR's own probe of that batch: nothing is lost by capturing."""
    model = WithLoss("tensor")
    batch = batches(1)[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    facade = CurvatureAdaptiveLR(optimizer, model, probe_fraction=0.5, burst_lanczos_steps=15)
    loss = model(batch)
    loss.backward()
    facade.step(loss)
    other = CurvatureAdaptiveLR(optimizer, model, resolve_loss("output"), probe_fraction=1.0)
    assert other._criterion.name == "output"
    part, share = take_rows(batch, 0.25, least_rows(model))  # batch norm wants all 16
    assert share == 1.0
    problem = Problem.from_module(model, lambda m, b: m(b), [part], mode="keep")
    exact = CurvatureEstimator(config=EstimatorConfig.thorough()).estimate(problem)
    assert facade.last_probe["probe_loss"] == pytest.approx(model(part).item(), rel=1e-5)
    assert facade.last_probe["lambda_max"] == pytest.approx(exact.lambda_max.value, rel=0.1)


def test_facade_with_a_criterion_module_and_with_a_function():
    for criterion in (nn.CrossEntropyLoss(), nn.functional.cross_entropy):
        model = network(dropout=0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = CurvatureAdaptiveLR(optimizer, model, criterion)
        x, y = batches(1)[0]
        loss = criterion(model(x), y)
        loss.backward()
        if isinstance(criterion, nn.Module):
            scheduler.step(loss)
        else:
            with pytest.raises(ProblemError, match="does not know the targets") as caught:
                scheduler.step(loss)
            assert "targets=y" in caught.value.hint
            scheduler.step(loss, targets=y)
        assert scheduler.last_probe["lambda_max"] > 0.0
        optimizer.step()
        train(model, optimizer, scheduler, batches(2))  # and the other call pattern too


def test_facade_says_what_is_missing():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = CurvatureAdaptiveLR(optimizer, model)
    with pytest.raises(ProblemError, match="no forward pass"):
        scheduler.step(torch.tensor(1.0))
    x, _ = batches(1)[0]
    model(x)
    with pytest.raises(ProblemError, match="not a loss"):
        scheduler.step(torch.tensor(1.0))
    named = CurvatureAdaptiveLR(optimizer, model, "cross_entropy")
    model(x)
    with pytest.raises(ProblemError, match="cannot see the batch of loss cross_entropy"):
        named.step(torch.tensor(1.0))


def test_facade_hooks_can_be_taken_off_and_go_with_it():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = CurvatureAdaptiveLR(optimizer, model)
    assert len(model._forward_pre_hooks) == 1
    scheduler.close()
    assert len(model._forward_pre_hooks) == 0


@pytest.mark.parametrize(
    ("mode", "signal", "target"),
    [("guard", "directional", 1.0), ("auto-warmup", "preconditioned_sharpness", 0.25)],
)
def test_facade_modes(mode, signal, target):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = CurvatureAdaptiveLR(optimizer, model, nn.CrossEntropyLoss(), mode=mode)
    assert scheduler.signal == signal
    assert scheduler._guard.ceiling.target == target
    with pytest.raises(ValueError, match="mode is 'fast': one of guard, auto-warmup"):
        CurvatureAdaptiveLR(optimizer, model, mode="fast")
