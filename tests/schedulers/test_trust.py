"""The trust ratio: for optimizers without a known edge the steps themselves are measured."""

import copy
import io
import itertools
import math

import pytest
import torch
from setups import DUMMY, Quadratic, batches, network, quadratic_loss, train
from torch import nn

from homotopy_cli.curvature.taken import Change
from homotopy_cli.errors import ProblemError
from homotopy_cli.integrations.ceiling import BorrowedCeiling
from homotopy_cli.schedulers import trust
from homotopy_cli.schedulers.adaptive import AdaptiveHomotopyLR
from homotopy_cli.schedulers.facade import CurvatureAdaptiveLR
from homotopy_cli.schedulers.homotopy import HomotopyLR
from homotopy_cli.schedulers.probing import CurvatureProbe
from homotopy_cli.schedulers.settings import GuardSettings
from homotopy_cli.schedulers.targets import TRUST_TARGET
from homotopy_cli.schedulers.trust import LEAST, WORST, Reading, TrustWatch
from homotopy_cli.schedulers.trust_guard import START, TrustGuard, make_guard
from homotopy_cli.training.probing import Gradient, PassiveProbe


class Lion(torch.optim.Optimizer):
    """Sign of a momentum (Chen et al. 2023), as a user would write it."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.99)):
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.sub_((b1 * m + (1 - b1) * p.grad).sign() * float(group["lr"]))
                m.mul_(b2).add_(p.grad, alpha=1 - b2)


class HeavyBall(torch.optim.Optimizer):
    """Momentum under a name that no table knows; μ = 0 is gradient descent."""

    def __init__(self, params, lr, mu=0.0):
        super().__init__(params, {"lr": lr, "mu": mu})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.mul_(group["mu"]).add_(p.grad)
                p.sub_(m, alpha=float(group["lr"]))


def one_reading(model, optimizer, loss=quadratic_loss, batch=DUMMY):
    """Watch the optimizer's next step."""
    watch = TrustWatch(CurvatureProbe(model, loss), optimizer)
    rate = float(optimizer.param_groups[0]["lr"])
    watch.arm(batch, 1.0, paired=False, step=0, rate=rate)
    optimizer.zero_grad()
    loss(model, batch).backward()
    optimizer.step()
    watch.settle(1)
    return watch


@pytest.mark.parametrize("rate", [1e-3, 0.05, 0.1, 0.3])
def test_of_gradient_descent_on_a_quadratic_it_is_known(rate):
    """a = η|g|², q = ½η²g'Hg: ρ = ½η g'Hg/|g|², the edge ratio of u'Hu/u'Pu."""
    eigenvalues, start = [1.0, 4.0, 10.0], 0.7
    watch = one_reading(
        model := Quadratic(eigenvalues, start=start), HeavyBall(model.parameters(), rate)
    )
    g = [value * start for value in eigenvalues]
    bend = sum(h * v * v for h, v in zip(eigenvalues, g, strict=True)) / sum(v * v for v in g)
    found = watch.reading
    change = found.change
    assert change.promised == pytest.approx(rate * sum(v * v for v in g), rel=1e-12)
    assert change.taken_back / change.promised == pytest.approx(0.5 * rate * bend, rel=1e-9)
    assert found.trust_ratio == pytest.approx(1.0 - 0.5 * rate * bend, rel=1e-9)
    assert change.grad_norm == pytest.approx(math.sqrt(sum(v * v for v in g)), rel=1e-12)
    measured = watch.take(fresh=True)
    within = min(WORST, max(LEAST, 0.5 * rate * bend))
    assert measured.values["directional_sharpness"] == pytest.approx(2.0 * within / rate, rel=1e-9)
    assert measured.estimate.directional_sharpness == measured.values["directional_sharpness"]
    assert watch.take(fresh=True) is None  # once


@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9])
def test_at_the_edge_of_a_momentum_method_the_ratio_is_one(mu):
    """At ηλ = 2(1+μ) the iterate flips its sign for ever: L(θ') = L(θ), however large μ is."""
    model = Quadratic([3.0], start=1.0)
    optimizer = HeavyBall(model.parameters(), 2.0 * (1.0 + mu) / 3.0, mu)
    optimizer.state[model.x]["m"] = -model.x.detach() * 3.0 / (1.0 + mu)  # on that orbit
    watch = one_reading(model, optimizer)
    change = watch.reading.change
    assert change.taken_back / change.promised == pytest.approx(1.0, rel=1e-9)


def reading(promised, taken_back):
    change = Change(promised, taken_back, loss=1.0, grad_norm=1.0, rounding=1e-6)
    return Reading(
        step=3,
        rate=0.1,
        change=change,
        n_params=2,
        n_terms=4,
        signal_fraction=math.nan,
        seconds=0.0,
        cost=0.4,
    )


@pytest.mark.parametrize(
    ("promised", "taken_back", "ratio", "trusted"),
    [
        (0.1, 0.05, 0.5, 0.5),
        (0.1, -0.05, LEAST, 1.5),  # concave along the step: more gained than promised
        (0.1, 9.0, WORST, -89.0),
        (0.1, math.inf, WORST, math.nan),  # the step ended in NaN
        (-0.1, 0.05, WORST, math.nan),  # uphill, and the loss rose
        (-0.1, -0.3, LEAST, math.nan),  # uphill, and the loss fell
        (1e-7, 5e-7, LEAST, math.nan),  # less than rounding shows
        (-1e-7, 0.0, LEAST, math.nan),
    ],
)
def test_what_one_reading_says(promised, taken_back, ratio, trusted):
    found = reading(promised, taken_back)
    assert found.ratio == pytest.approx(ratio)
    assert found.trust_ratio == pytest.approx(trusted, nan_ok=True)


def test_readings_are_averaged_in_log_space_and_one_wild_step_moves_them_little():
    model = network()
    watch = TrustWatch(CurvatureProbe(model, nn.CrossEntropyLoss()), Lion(model.parameters()))
    values = []
    for taken_back in (0.05, 0.05, 100.0, 0.05):
        watch.reading = reading(0.1, taken_back)
        values.append(watch.take(fresh=False).values["directional_sharpness"])
    assert values[:2] == pytest.approx([10.0, 10.0])
    assert values[2] == pytest.approx(10.0 * 8.0 ** (1.0 - trust.KEPT))
    assert values[3] == pytest.approx(10.0 * 8.0 ** ((1.0 - trust.KEPT) * trust.KEPT))
    watch.reading = reading(0.1, 0.02)
    assert watch.take(fresh=True).values["directional_sharpness"] == pytest.approx(4.0)


def test_a_float32_step_too_short_to_see_is_not_read_as_curvature():
    model = Quadratic([1.0, 4.0], start=1.0, dtype=torch.float32)
    watch = one_reading(model, HeavyBall(model.parameters(), 3e-7), batch=DUMMY.float())
    assert abs(watch.reading.change.taken_back) < watch.reading.change.rounding
    assert watch.reading.ratio == LEAST


def test_lion_is_watched_and_said_so():
    model = network()
    scheduler = HomotopyLR(Lion(model.parameters()), model, nn.CrossEntropyLoss())
    (event,) = scheduler.drain_events()
    assert event.code == "SIGNAL" and event.level == "info"
    assert event.message == (
        "signal trust_ratio for Lion, whose edge no formula gives: its own steps are watched"
    )
    assert scheduler.signal == "trust_ratio"
    assert scheduler._guard.ceiling.target == TRUST_TARGET
    train(model, scheduler.optimizer, scheduler, batches(6))
    probe = scheduler.last_probe
    rate = scheduler.history.steps.column("lr")[-1]
    assert probe["edge_ratio"] > 0.0 and rate < 1e-3
    assert {"trust_ratio", "directional_sharpness", "ceiling", "gradient_equivalents"} <= set(probe)


def test_a_torch_optimizer_outside_the_table_is_watched_too():
    model = network()
    scheduler = HomotopyLR(torch.optim.Adafactor(model.parameters()), model, nn.CrossEntropyLoss())
    assert isinstance(scheduler._guard, TrustGuard)


def descend(rate, steps=60, enabled=True, **settings):
    """Lion far too fast on a steep quadratic; returns the last loss and the rates."""
    model = Quadratic([100.0, 30.0, 1.0], start=1.0)
    optimizer = Lion(model.parameters(), lr=rate)
    scheduler = HomotopyLR(
        optimizer, model, quadratic_loss, enabled=enabled, budget=math.inf, **settings
    )
    used = []
    for _ in range(steps):
        optimizer.zero_grad()
        model(DUMMY).backward()
        scheduler.update_curvature(batch=DUMMY)
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return float(model(DUMMY).detach()), used, scheduler


def test_a_rate_far_too_high_is_held_to_what_the_steps_bear():
    alone, _, _ = descend(3.0, enabled=False)
    held, used, scheduler = descend(3.0)
    assert held < 0.2 * alone
    assert max(used) < 1.5
    assert "CEILING_ON" in [event.code for event in scheduler.drain_events()]


def test_where_nothing_warms_up_the_first_step_is_short_and_the_rest_is_released():
    _, used, _ = descend(1e-4)
    assert used[0] == pytest.approx(START * 1e-4)
    growth = [b / a for a, b in itertools.pairwise(used)]
    assert max(growth) <= 1.05 + 1e-9
    assert used[-1] > 10.0 * used[0]


def test_under_a_warmup_a_rate_that_is_borne_is_left_alone():
    schedule = [0.1 * (i + 1) if i < 10 else 1.0 for i in range(80)]
    _, used, _ = descend(1e-4, steps=30, inner=lambda k: schedule[k])
    assert used == pytest.approx([1e-4 * factor for factor in schedule[:30]])


def test_measuring_without_acting_is_bitwise_the_plain_run():
    results = []
    for enabled in (True, False):
        model = network()
        optimizer = Lion(model.parameters(), lr=3e-3)
        settings = {"alpha": 0.0, "budget": math.inf} if enabled else {"enabled": False}
        scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), **settings)
        torch.manual_seed(3)
        train(model, optimizer, scheduler, batches(20))
        assert not enabled or scheduler.n_probes > 4
        results.append([*model.state_dict().values(), torch.get_rng_state()])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_a_reading_leaves_no_trace():
    model = network()
    optimizer = Lion(model.parameters())
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), budget=math.inf)
    train(model, optimizer, scheduler, batches(3))
    before = copy.deepcopy(model.state_dict())
    grads = [p.grad.clone() for p in model.parameters()]
    flags, rng = [m.training for m in model.modules()], torch.get_rng_state()
    scheduler.update_curvature(*batches(1)[0])
    optimizer.step()
    after = copy.deepcopy(model.state_dict())
    scheduler.step()  # reads
    torch.testing.assert_close(model.state_dict(), after, rtol=0, atol=0)
    torch.testing.assert_close([p.grad for p in model.parameters()], grads, rtol=0, atol=0)
    assert [m.training for m in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), rng)
    assert before.keys() == after.keys() and scheduler._guard.watch.reading is not None


@pytest.mark.parametrize("at", [1, 2, 5, 11])
def test_resume_is_bitwise(at):
    data = batches(24)

    def fresh():
        model = network(dropout=0.0)
        optimizer = Lion(model.parameters(), lr=0.5)
        return model, optimizer, HomotopyLR(optimizer, model, nn.CrossEntropyLoss())

    model, optimizer, scheduler = fresh()
    whole = train(model, optimizer, scheduler, data)
    expected = copy.deepcopy(model.state_dict())

    model, optimizer, scheduler = fresh()
    train(model, optimizer, scheduler, data[:at])
    parts = {"m": model.state_dict(), "o": optimizer.state_dict(), "s": scheduler.state_dict()}
    torch.save(parts, buffer := io.BytesIO())
    saved = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    model, optimizer, scheduler = fresh()
    model.load_state_dict(saved["m"])
    optimizer.load_state_dict(saved["o"])
    scheduler.load_state_dict(saved["s"])
    rest = train(model, optimizer, scheduler, data[at:], start=at)
    assert rest == whole[at:]
    torch.testing.assert_close(model.state_dict(), expected, rtol=0, atol=0)


def test_the_same_seed_gives_the_same_bytes():
    saved = []
    for _ in range(2):
        model = network()
        optimizer = Lion(model.parameters())
        scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss())
        torch.manual_seed(3)
        train(model, optimizer, scheduler, batches(2))  # a reading waits
        torch.save(scheduler.state_dict(), buffer := io.BytesIO())
        saved.append(buffer.getvalue())
    assert scheduler._guard.watch.reading is not None
    assert saved[0] == saved[1]


def test_saved_between_the_step_and_scheduler_step_the_reading_is_kept():
    model = network()
    optimizer = Lion(model.parameters())
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss())
    x, y = batches(1)[0]
    nn.functional.cross_entropy(model(x), y).backward()
    scheduler.update_curvature(x, y)
    assert scheduler.state_dict()["guard"]["watch"]["reading"] is None  # not taken yet
    optimizer.step()
    assert scheduler.state_dict()["guard"]["watch"]["reading"]["step"] == 0


def test_a_step_that_a_grad_scaler_skips_is_not_read():
    model = network()
    optimizer = Lion(model.parameters())
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), budget=math.inf)
    x, y = batches(1)[0]
    train(model, optimizer, scheduler, [(x, y)])
    for _ in range(3):
        nn.functional.cross_entropy(model(x), y).backward()
        scheduler.update_curvature(x, y)
        scheduler.step()  # without optimizer.step()
    assert scheduler.n_probes == 1
    optimizer.step()
    scheduler.step()
    scheduler.update_curvature(x, y)
    assert scheduler.n_probes == 2


def test_accumulated_microbatches_are_one_step():
    model = network()
    optimizer = Lion(model.parameters())
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), budget=math.inf)
    for _ in range(3):
        for x, y in batches(4):
            nn.functional.cross_entropy(model(x), y).backward()
            scheduler.update_curvature(x, y)
            start = scheduler._guard.watch.armed.start
        assert scheduler._guard.watch.armed.start is start
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    assert scheduler.n_probes == 2


def test_a_loss_that_is_nan_from_the_start_is_an_event_and_the_rate_stays_short():
    model = network()
    optimizer = Lion(model.parameters())
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss())
    used = train(model, optimizer, scheduler, batches(2), poison={0})
    assert [e.code for e in scheduler.drain_events()][:2] == ["SIGNAL", "PROBE_FAILED"]
    assert used[0][0] == pytest.approx(START * 1e-3)


def test_a_mistake_in_the_set_up_is_raised():
    model = network()
    scheduler = HomotopyLR(Lion(model.parameters()), model, nn.CrossEntropyLoss())
    with pytest.raises(ProblemError, match="99"):
        scheduler.update_curvature(torch.zeros(4, 99), torch.zeros(4).long())


def test_of_several_steps_on_one_batch_the_first_is_read():
    model = network()
    optimizer = Lion(model.parameters())
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), budget=math.inf)
    x, y = batches(1)[0]
    for _ in range(2):
        nn.functional.cross_entropy(model(x), y).backward()
        scheduler.update_curvature(x, y)
        for _ in range(4):
            optimizer.step()
    assert scheduler.n_probes == 1


def test_the_reading_is_of_the_step_s_own_mode_and_batch():
    """A validation in eval mode, or a batch buffer that is refilled, comes after the step."""
    found = []
    for later in (False, True):
        model = network(dropout=0.5)
        optimizer = Lion(model.parameters())
        scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), budget=math.inf)
        torch.manual_seed(3)
        (x, y), other = batches(1)[0], batches(2)[1]
        nn.functional.cross_entropy(model(x), y).backward()
        scheduler.update_curvature(x, y)
        optimizer.step()
        if later:
            model.eval()
            x.copy_(other[0])
        scheduler.step()
        found.append(scheduler._guard.watch.reading.change)
    assert found[0] == found[1]


def test_what_another_optimizer_moves_is_no_part_of_the_step():
    ratios = []
    for rate in (0.0, 8.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double()
        optimizer = HeavyBall(model[0].parameters(), 0.1)
        beside = torch.optim.SGD(model[2].parameters(), lr=rate)
        scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), probe_fraction=1.0)
        x, y = batches(1)[0]
        nn.functional.cross_entropy(model(x.double()), y).backward()
        scheduler.update_curvature(x.double(), y)
        beside.step()
        optimizer.step()
        change = scheduler._guard.watch.reading.change
        ratios.append((change.promised, change.taken_back))
    assert ratios[1] == pytest.approx(ratios[0], rel=1e-6)


def test_a_forward_pass_that_rounds_to_half_precision_holds_no_harmless_rate():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 3))

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.net(x).float()

    model = Half()
    optimizer = Lion(model.parameters(), lr=1e-6)
    schedule = [0.1 * (i + 1) if i < 10 else 1.0 for i in range(60)]
    scheduler = HomotopyLR(
        optimizer, model, nn.CrossEntropyLoss(), inner=lambda k: schedule[k], budget=math.inf
    )
    used = train(model, optimizer, scheduler, batches(50))
    assert [row[0] for row in used] == pytest.approx([1e-6 * f for f in schedule[:50]])


def test_a_rise_after_a_low_phase_is_not_held_by_what_was_not_seen():
    schedule = [1.0] * 20 + [0.01] * 20 + [1.0] * 20
    warm = [0.1 * (i + 1) if i < 10 else 1.0 for i in range(60)]
    plan = [a * b for a, b in zip(schedule, warm, strict=True)]
    _, used, _ = descend(1e-4, steps=60, inner=lambda k: plan[min(k, 59)])
    assert used == pytest.approx([1e-4 * factor for factor in plan])


def test_an_optimizer_whose_rate_is_no_step_length_is_left_alone():
    model = network()
    optimizer = torch.optim.Rprop(model.parameters())
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), budget=math.inf)
    assert [e.code for e in scheduler.drain_events()] == ["SIGNAL", "NOT_HELD"]
    assert {row[0] for row in train(model, optimizer, scheduler, batches(6))} == {0.01}


def test_a_first_rate_of_zero_without_a_floor_is_no_end():
    model = network()
    optimizer = Lion(model.parameters(), lr=1e-3)
    scheduler = HomotopyLR(
        optimizer, model, nn.CrossEntropyLoss(), floor=0.0, inner=lambda k: min(1.0, 0.1 * k)
    )
    used = [row[0] for row in train(model, optimizer, scheduler, batches(12))]
    assert used[0] == 0.0 and used[-1] > 0.0


def test_the_target_is_the_signal_s_own_wherever_the_guard_is():
    model = network()
    guard = make_guard(Lion(model.parameters()), model, None, GuardSettings())
    assert guard.ceiling.target == TRUST_TARGET
    facade = CurvatureAdaptiveLR(Lion(model.parameters()), model, mode="guard")
    assert facade._guard.ceiling.target == TRUST_TARGET


def test_a_step_into_nan_counts_as_the_worst():
    class Cliff(Quadratic):
        def forward(self, batch):
            return super().forward(batch) / (self.x.abs().max() < 2.0)

    model = Cliff([1.0], start=1.9)
    optimizer = HeavyBall(model.parameters(), 1.0)
    watch = one_reading(model, optimizer)
    assert watch.reading.change.taken_back < math.inf
    model.x.data.fill_(1.9)
    optimizer.param_groups[0]["lr"] = -1.0  # over the cliff
    watch = TrustWatch(CurvatureProbe(model, quadratic_loss), optimizer)
    watch.arm(DUMMY, 1.0, paired=False, step=0, rate=1.0)
    optimizer.step()
    watch.settle(1)
    assert watch.reading.change.taken_back == math.inf and watch.reading.ratio == WORST


def test_a_failing_reading_keeps_the_ceiling_counts_and_says_so():
    model = network()
    optimizer = Lion(model.parameters(), lr=0.3)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), budget=math.inf)
    train(model, optimizer, scheduler, batches(2))
    limit = scheduler._guard.ceiling.edge
    goal = limit.curvature
    scheduler.drain_events()
    train(model, optimizer, scheduler, batches(1), start=2, poison={2})
    assert scheduler.n_failed_probes == 1
    (event,) = [e for e in scheduler.drain_events() if e.code == "PROBE_FAILED"]
    assert event.step == 2 and event.message.endswith("the last ceiling stays")
    assert limit.curvature is not None and goal is not None
    train(model, optimizer, scheduler, batches(3), start=3)
    assert scheduler.n_failed_probes == 1


def test_kappa_is_measured_beside_but_steers_nothing():
    model = network()
    optimizer = Lion(model.parameters())
    scheduler = HomotopyLR(
        optimizer, model, nn.CrossEntropyLoss(), budget=math.inf, estimation_freq=1, kappa_freq=2
    )
    seen = []
    for step, (x, y) in enumerate(batches(24)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        if scheduler.update_curvature(x, y) is not None:
            seen.append((step, "kappa" in scheduler.last_probe))
        optimizer.step()
        scheduler.step()
    with_kappa = [i for i, (_, measured) in enumerate(seen) if measured]
    assert with_kappa[:3] == [0, 4, 8]
    assert scheduler.current_curvature > 0.0
    assert scheduler._guard.ceiling.kappa_target is None


def test_a_curvature_target_makes_every_reading_measure_kappa():
    model = network()
    optimizer = Lion(model.parameters())
    scheduler = HomotopyLR(
        optimizer, model, nn.CrossEntropyLoss(), budget=math.inf, curvature_target=1e-9
    )
    train(model, optimizer, scheduler, batches(5))
    assert "kappa" in scheduler.last_probe
    assert scheduler.lr_reason != 0 and optimizer.param_groups[0]["lr"] < 1e-3 * START * 2


def test_the_share_of_signal_lowers_the_ceiling_where_asked_for():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    optimizer = Lion(model.parameters())
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), signal_fraction=True)
    train(model, optimizer, scheduler, batches(6, rows=64))
    ceiling = scheduler._guard.ceiling
    assert 0.0 < scheduler.last_probe["signal_fraction"] <= 1.0
    assert ceiling.fraction < 1.0
    assert ceiling._numerator(6) == pytest.approx(TRUST_TARGET * 2.0 * ceiling.fraction)


def test_a_loss_that_is_a_sum_over_rows_is_watched_on_all_of_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    optimizer = Lion(model.parameters())
    total = nn.CrossEntropyLoss(reduction="sum")
    scheduler = HomotopyLR(optimizer, model, lambda out, y: total(out, y))
    train(model, optimizer, scheduler, batches(3, rows=64))
    assert "WHOLE_BATCH" in [event.code for event in scheduler.drain_events()]
    assert scheduler._guard.watch.probe.whole


def test_the_budget_holds():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    optimizer = Lion(model.parameters())
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), total_steps=400)
    train(model, optimizer, scheduler, batches(1, rows=64) * 400)
    assert scheduler.n_probes > 15
    assert scheduler.overhead <= 0.051


def test_a_known_optimizer_may_be_watched_too():
    model = Quadratic([10.0], start=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    scheduler = HomotopyLR(
        optimizer, model, quadratic_loss, signal="trust_ratio", inner=lambda k: min(1, 0.1 * k + 1)
    )
    assert scheduler._guard.ceiling.threshold(0) == 2.0
    for _ in range(4):
        optimizer.zero_grad()
        model(DUMMY).backward()
        scheduler.update_curvature(batch=DUMMY)
        optimizer.step()
        scheduler.step()
    assert scheduler.last_probe["edge_ratio"] > 0.0


def test_mode_auto_needs_a_curvature_before_the_first_step():
    model = network()
    for optimizer, more in (
        (Lion(model.parameters()), {}),
        (torch.optim.AdamW(model.parameters()), {"signal": "trust_ratio"}),
    ):
        with pytest.raises(ValueError, match=r"mode auto .*trust_ratio"):
            HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), mode="auto", **more)


def test_the_other_classes_watch_as_well():
    for make in (AdaptiveHomotopyLR, lambda *a: CurvatureAdaptiveLR(*a, mode="guard")):
        model = network()
        optimizer = Lion(model.parameters(), lr=0.3)
        scheduler = make(optimizer, model, nn.CrossEntropyLoss())
        assert scheduler.signal == "trust_ratio"
        train(model, optimizer, scheduler, batches(8))
        assert scheduler.last_probe["edge_ratio"] > 0.0


def test_the_facades_own_loop_watches():
    model = network()
    optimizer = Lion(model.parameters(), lr=0.3)
    criterion = nn.CrossEntropyLoss()
    scheduler = CurvatureAdaptiveLR(optimizer, model, criterion)
    for x, y in batches(8):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        scheduler.step(loss)
        optimizer.step()
    assert scheduler.n_probes >= 4


def test_a_borrowed_ceiling_watches_and_gives_the_rates_back():
    model = network()
    optimizer = Lion(model.parameters(), lr=0.3)
    ceiling = BorrowedCeiling(
        optimizer, model, lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1])
    )
    used = []
    hook = optimizer.register_step_pre_hook(lambda *_: used.append(optimizer.param_groups[0]["lr"]))
    for x, y in batches(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        ceiling.before_step((x, y))
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] == 0.3
    hook.remove()
    assert used[0] == pytest.approx(0.3 * START) and max(used) < 0.3
    assert len(ceiling.history.probes.column("step")) >= 4


def test_a_passive_probe_reads_the_rate_that_was_really_used():
    model = Quadratic([10.0], start=1.0)
    optimizer = HeavyBall(model.parameters(), 0.15)
    guard = make_guard(optimizer, model, quadratic_loss, GuardSettings(budget=math.inf))
    probe = PassiveProbe(guard)
    found = []
    for step in range(4):
        optimizer.zero_grad()
        model(DUMMY).backward()
        made = Gradient(DUMMY, step, 1.0, 1.0, 1.0, dict)
        found.append(probe.after_backward(made))
        assert optimizer.param_groups[0]["lr"] == 0.15
        optimizer.step()
    assert found[0] is None
    for record in found[1:]:
        assert record.values["edge_ratio"] == pytest.approx(0.5 * 0.15 * 10.0, rel=1e-6)
