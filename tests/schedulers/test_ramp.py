"""Mode auto: rates that are measured, on quadratics whose edge is known and on a small net."""

import copy
import math
import warnings
from itertools import pairwise

import pytest
import torch
from torch import nn

from homotopy_cli.schedulers.adaptive import AdaptiveHomotopyLR
from homotopy_cli.schedulers.homotopy import HomotopyLR
from homotopy_cli.schedulers.ramp import (
    FULL,
    LINE_SIGNAL,
    START,
    UNMEASURED,
    MeasuredRamp,
    measured_rise,
)
from homotopy_cli.schedulers.settings import GuardSettings


def follow(ramp, curvature, steps, every=5, threshold=2.0):
    """Rates of a run in which λ(t) is measured in the start and then every few steps."""
    rates = []
    for t in range(steps):
        if t <= START or t % every == 0:
            ramp.take(t, curvature(t), threshold)
        rates.append(ramp(t))
    return rates


def test_it_starts_at_its_share_of_the_edge():
    ramp = MeasuredRamp(1000, start_ratio=0.6)
    assert ramp(0) == UNMEASURED and not ramp.measured
    ramp.take(0, 50.0, 2.0)
    assert ramp(0) == pytest.approx(0.6 * 2.0 / 50.0)


def test_a_longer_rise_starts_more_gently():
    shares = [MeasuredRamp(steps).share for steps in (100, 2000, 4000, 10**6)]
    assert shares == pytest.approx([0.2, 0.15, 0.075, 0.02])
    assert MeasuredRamp(2000, start_ratio=0.3).share == 0.3


def test_the_rise_takes_a_tenth_or_200_steps_where_they_fit_into_a_quarter():
    steps = [MeasuredRamp(total).ramp_steps for total in (0, 1, 100, 800, 1500, 2000, 20000)]
    assert steps == [1000, 1, 25, 200, 200, 200, 2000]
    assert MeasuredRamp(100, warmup=0.5).ramp_steps == 50


def test_from_the_start_it_rises_in_a_line_stays_and_decays_in_the_last_fifth():
    """λ falls as fast as the rate rises: the edge ratio stays at its share, nothing stops it."""
    rates = follow(MeasuredRamp(2000), lambda t: 8.0 / (t + 1), 2000)
    assert rates[START] == pytest.approx(0.15 * 2.0 / 8.0 * (START + 1))
    steps = [b - a for a, b in pairwise(rates[START:200])]
    assert max(steps) == pytest.approx(min(steps)) == pytest.approx(0.15 * 2.0 / 8.0, rel=0.1)
    assert rates[200] == rates[1600] == max(rates)
    assert rates[1800] == pytest.approx(rates[200] * 0.55, rel=0.01)  # half way down to 0.1
    assert rates[-1] == pytest.approx(0.1 * rates[200])


def test_a_rise_that_takes_all_of_the_run_does_not_decay():
    rates = follow(MeasuredRamp(100, warmup=1.0), lambda t: 8.0 / (t + 1), 100)
    assert all(b >= a for a, b in pairwise(rates))


def test_an_edge_ratio_that_stays_up_stops_the_rise():
    """λ = 8 for ever: beyond CALM the rise slows down, and it never passes FULL."""
    rates = follow(MeasuredRamp(8000, start_ratio=0.1), lambda t: 8.0, 8000)
    edge = 2.0 / 8.0
    assert 0.8 * FULL < rates[800] / edge <= FULL
    assert all(b >= a for a, b in pairwise(rates[:801]))


@pytest.mark.parametrize(("ratio", "pace"), [(0.01, 1.0), (0.75, 1.0), (1.0, 0.5), (1.4, 0.0)])
def test_the_rise_goes_on_where_the_network_answers(ratio, pace):
    """λ·η settles at a share of the edge, whatever η: the rise has the pace that it allows."""
    ramp, rates = MeasuredRamp(2000, warmup=0.25), []
    for t in range(500):
        ramp.take(t, ratio * 2.0 / ramp(t) if t > START else 8.0 / (t + 1), 2.0)
        rates.append(ramp(t))
    late = [b - a for a, b in pairwise(rates[300:])]
    assert late == pytest.approx([pace * ramp.slope] * len(late), rel=0.4, abs=1e-3 * ramp.slope)


def test_one_outlier_stops_no_rise():
    quiet = follow(MeasuredRamp(2000), lambda t: 8.0 / (t + 1), 500)
    outlier = follow(MeasuredRamp(2000), lambda t: 8e6 if t == 50 else 8.0 / (t + 1), 500)
    assert outlier == quiet


def test_after_the_start_the_rate_never_falls_before_the_decay():
    rates = follow(MeasuredRamp(400), lambda t: 5.0 if t <= 50 else 5e6, 400)
    assert all(b >= a for a, b in pairwise(rates[START:321]))
    assert rates[321] < rates[320]
    assert rates[100] == pytest.approx(rates[60], rel=0.2)


def test_early_rates_cannot_jump_by_more_than_eight():
    rates = follow(MeasuredRamp(1000), lambda t: 1e9 if t == 0 else 1.0, 5)
    assert all(b / a <= 8.0 + 1e-9 for a, b in pairwise(rates))


def test_negative_curvature_gives_a_finite_rate():
    rates = follow(MeasuredRamp(100), lambda t: -5.0 if t < 3 else 5.0, 40)
    assert all(math.isfinite(rate) and rate > 0.0 for rate in rates)


def test_an_unknown_length_ramps_and_then_stays():
    rates = follow(MeasuredRamp(0, fallback_ramp=50), lambda t: 0.1, 200)
    assert rates[60] == rates[199] == max(rates)


def test_a_start_that_nobody_saw_sets_no_limit():
    """Only the first steps tell how steep the line is; a late or a rare probe does not."""
    late, rare = MeasuredRamp(1000), MeasuredRamp(1000)
    late.take(300, 5.0, 2.0)
    for step in (0, 50, 100):
        rare.take(step, 1e6 if step == 0 else 5.0, 2.0)
    assert late.level(300) == late.level(900) == math.inf
    assert rare.level(0) < 1e-5 and rare.level(101) == math.inf
    few = MeasuredRamp(1000)
    for step in (0, 1, 2, 4, 8, 16):
        few.take(step, 5.0, 2.0)
    assert few.level(17) < 0.1


def test_a_longer_run_reopens_no_rise():
    ramp = MeasuredRamp(400)
    follow(ramp, lambda t: 8.0 / (t + 1), 120)
    longer = MeasuredRamp(4000)
    longer.load_state_dict(ramp.state_dict())
    assert ramp.over and longer.over and longer.level(900) == ramp.rate


def test_the_state_is_plain_and_continues_bitwise():
    def curvature(t):
        return 3.0 + math.sin(t)

    whole = follow(MeasuredRamp(300), curvature, 120)
    for cut in (6, 60):
        half = MeasuredRamp(300)
        follow(half, curvature, cut)
        state = half.state_dict()
        assert all(v is None or isinstance(v, float | int | list) for v in state.values())
        rest = MeasuredRamp(300)
        rest.load_state_dict(state)
        for t in range(cut, 120):
            if t <= START or t % 5 == 0:
                rest.take(t, curvature(t), 2.0)
            assert rest(t) == whole[t]


def quadratic(eigenvalues, optimizer=torch.optim.SGD, **settings):
    a = torch.tensor(eigenvalues)
    model = nn.Linear(len(eigenvalues), 1, bias=False)
    model.weight.data.fill_(1.0)
    made = optimizer(model.parameters(), lr=123.0, **settings)

    def loss(m, batch):
        return 0.5 * (a * m.weight[0] ** 2).sum()

    return model, made, loss


def run(model, optimizer, loss, steps, **settings):
    scheduler = HomotopyLR(
        optimizer, model, loss, mode="auto", total_steps=steps, budget=math.inf, **settings
    )
    batch, rates = torch.zeros(8, 1), []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        scheduler.update_curvature(batch=batch)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return scheduler, rates, float(loss(model, batch).detach())


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (torch.optim.SGD, {}),
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.AdamW, {"weight_decay": 0.0}),
    ],
)
def test_it_solves_a_quadratic_without_a_learning_rate(optimizer, settings):
    model, made, loss = quadratic([100.0, 30.0, 10.0, 3.0, 1.0], optimizer, **settings)
    start = float(loss(model, None).detach())
    _, rates, end = run(model, made, loss, 300)
    assert end < 2e-3 * start
    if optimizer is torch.optim.SGD:
        edge = 2.0 * (1.0 + settings.get("momentum", 0.0)) / 100.0
        assert max(rates) <= 1.01 * edge


def test_group_rates_only_tell_how_groups_relate():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    groups = [
        {"params": model[0].parameters(), "lr": 7.0},
        {"params": model[2].parameters(), "lr": 0.7},
    ]
    optimizer = torch.optim.SGD(groups)
    x, y = torch.randn(16, 4), torch.randn(16, 1)

    def loss(m, batch):
        return ((m(batch[0]) - batch[1]) ** 2).mean()

    scheduler = HomotopyLR(optimizer, model, loss, mode="auto", total_steps=30)
    for _ in range(30):
        optimizer.zero_grad()
        loss(model, (x, y)).backward()
        scheduler.update_curvature(batch=(x, y))
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert first == pytest.approx(10.0 * second)
        optimizer.step()
        scheduler.step()
    assert any(event.code == "RAMP" for event in scheduler._guard.events.drain())


def test_resume_is_bitwise():
    def build():
        return quadratic([40.0, 7.0, 1.0], torch.optim.AdamW)

    model, optimizer, loss = build()
    settings = {"mode": "auto", "total_steps": 60, "budget": math.inf}
    scheduler = HomotopyLR(optimizer, model, loss, **settings)
    batch, saved = torch.zeros(8, 1), None

    def step(model, optimizer, scheduler):
        optimizer.zero_grad()
        loss(model, batch).backward()
        scheduler.update_curvature(batch=batch)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()
        return rate

    rates = []
    for t in range(60):
        if t == 25:
            saved = copy.deepcopy([p.state_dict() for p in (model, optimizer, scheduler)])
        rates.append(step(model, optimizer, scheduler))
    again, other, _ = build()
    again.load_state_dict(saved[0])
    resumed = HomotopyLR(other, again, loss, **settings)
    other.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    assert [step(again, other, resumed) for _ in range(25, 60)] == rates[25:]
    assert torch.equal(again.weight, model.weight)


def test_what_contradicts_mode_auto_is_refused():
    model, optimizer, loss = quadratic([1.0, 2.0])
    with pytest.raises(ValueError, match="no base_lr, inner or enabled=False"):
        HomotopyLR(optimizer, model, loss, mode="auto", base_lr=0.1)
    with pytest.raises(ValueError, match="AdaptiveHomotopyLR has no mode auto"):
        AdaptiveHomotopyLR(optimizer, model, loss, mode="auto")
    with pytest.raises(ValueError, match="one of guard, auto"):
        HomotopyLR(optimizer, model, loss, mode="automatic")


@pytest.mark.parametrize("total", [100, 0])
def test_the_end_of_the_rise_is_said(total):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    x, y = torch.randn(16, 4), torch.randn(16, 1)
    criterion = nn.MSELoss()
    often = {"budget": math.inf, "estimation_freq": 5}
    scheduler = HomotopyLR(optimizer, model, criterion, mode="auto", total_steps=total, **often)
    if not total:
        scheduler.ramp.fallback_ramp = 25
    for _ in range(60):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        scheduler.update_curvature(x, y)
        optimizer.step()
        scheduler.step()
    (told,) = [event.message for event in scheduler.events if event.code == "RAMP"]
    end = ", which decays after step 80" if total else ""
    assert told == f"the rise ends at rate {scheduler.ramp.rate:.3g}{end}"


def test_the_line_under_a_schedule_is_that_of_a_rise_of_500_steps():
    line = measured_rise(GuardSettings(total_steps=2000), LINE_SIGNAL)
    assert (line.ramp_steps, line.share) == (500, 0.15)
    assert measured_rise(GuardSettings(total_steps=2000, warmup=0.0), LINE_SIGNAL) is None


def test_a_run_of_a_few_steps_decays_too():
    for total in (3, 5, 8, 12):
        rates = [MeasuredRamp(total, final=0.0, rate=1.0, closed=True)(t) for t in range(total)]
        assert rates[0] == 1.0 and rates[-1] == 0.0
        assert all(b <= a for a, b in pairwise(rates))


def test_a_state_of_the_law_before_is_told():
    def make():
        model = nn.Linear(4, 1)
        optimizer = torch.optim.AdamW(model.parameters())
        return HomotopyLR(optimizer, model, nn.MSELoss(), mode="auto", total_steps=100)

    state = make().state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make().load_state_dict(copy.deepcopy(state))
    del state["guard"]["ceiling"]["rise"]["law"]
    with pytest.warns(UserWarning, match="level until the last fifth"):
        make().load_state_dict(state)
