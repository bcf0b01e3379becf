"""Limit, RangeAlarm, EventLog, Series and StepCounter, one by one."""

import copy
import itertools
import math

import pytest
import torch

from homotopy_cli.schedulers.alarms import RangeAlarm
from homotopy_cli.schedulers.ceiling import CEILING, SCALED, Ceiling
from homotopy_cli.schedulers.counting import StepCounter
from homotopy_cli.schedulers.events import CAPACITY, EventLog
from homotopy_cli.schedulers.history import History, Series
from homotopy_cli.schedulers.limits import Limit, Reach
from homotopy_cli.schedulers.ramp import MeasuredRamp
from homotopy_cli.schedulers.settings import GuardSettings


def test_a_limit_is_open_until_measured_and_then_attacks_at_once():
    limit = Limit(smoothing=0.9)
    assert limit.goal(2.0) == math.inf
    limit.measured(100.0, 1)
    limit.attack(2.0)
    assert limit.limit == pytest.approx(0.02)
    assert not limit.rising


def test_a_fall_in_curvature_releases_over_steps():
    limit = Limit(smoothing=0.0)
    limit.measured(100.0, 1)
    limit.attack(2.0)
    limit.measured(1.0, 1)
    limit.attack(2.0)
    assert limit.limit == pytest.approx(0.02) and limit.rising
    for _ in range(3):
        limit.advance(2.0, floor=0.0, rate=1.1)
    assert limit.limit == pytest.approx(0.02 * 1.1**3)
    for _ in range(100):
        limit.advance(2.0, floor=0.0, rate=1.1)
    assert limit.limit == pytest.approx(2.0) and not limit.rising


def test_release_starts_from_the_floor_not_from_far_below_it():
    limit = Limit(smoothing=0.0)
    limit.measured(1e12, 1)
    limit.attack(2.0)
    limit.measured(1.0, 1)
    limit.advance(2.0, floor=0.01, rate=1.05)
    assert limit.limit == pytest.approx(0.01 * 1.05)


def test_the_average_forgets_by_optimizer_steps_not_by_probes():
    one, two = Limit(0.9), Limit(0.9)
    for limit in (one, two):
        limit.measured(1000.0, 1)
    for _ in range(20):
        one.measured(1.0, 1)
    two.measured(1.0, 20)
    assert one.average == pytest.approx(1000.0 ** (0.9**20))
    assert two.average == pytest.approx(one.average)


def test_a_large_cut_waits_for_a_second_word():
    limit = Limit(smoothing=0.0)
    limit.measured(100.0, 1)
    limit.attack_in_doubt(2.0, 2.0)
    assert (
        limit.limit == pytest.approx(0.02) and not limit.doubted
    )  # nothing to doubt: no limit yet
    limit.measured(1e4, 1)
    limit.attack_in_doubt(2.0, 2.0)
    assert limit.limit == pytest.approx(0.01) and limit.doubted == pytest.approx(0.02)
    limit.advance(2.0, floor=0.0, rate=1.05)
    assert limit.limit == pytest.approx(0.01)  # in doubt nothing moves
    confirmed, refuted = copy.deepcopy(limit), copy.deepcopy(limit)
    limit.confirm(2.0)
    assert limit.limit == pytest.approx(2e-4) and not limit.doubted
    confirmed.measured(8e3, 1)
    confirmed.attack_in_doubt(2.0, 2.0)
    assert confirmed.limit == pytest.approx(2.5e-4) and not confirmed.doubted
    refuted.measured(110.0, 1)
    refuted.attack_in_doubt(2.0, 2.0)
    assert refuted.limit == pytest.approx(2.0 / 110.0) and not refuted.doubted


def allowed(level):
    """A law that allows rates up to `level`."""
    return lambda rate: min(1.0, level / rate)


def taken(reach, schedule, level):
    reach.current = schedule
    reach.advance(allowed(level))


def test_reach_is_what_was_allowed_at_the_peak_and_may_grow_after_it():
    reach = Reach()
    for step in range(10):  # the schedule rises
        taken(reach, 0.1 * (step + 1), 0.2)
        assert reach.of(0.1 * (step + 2)) == 1.0
    assert (reach.peak, reach.share) == (pytest.approx(1.0), pytest.approx(0.2))
    taken(reach, 0.9, 0.3)
    assert reach.of(0.8) == pytest.approx(0.3)
    taken(reach, 0.8, 0.1)  # a later cut is the ceiling's business
    assert reach.of(0.7) == pytest.approx(0.3)


def test_reach_begins_anew_at_every_return_to_the_peak():
    reach = Reach()
    for schedule, level in ((1.0, 0.5), (0.1, 0.5), (1.0, 0.2)):
        taken(reach, schedule, level)
    assert reach.of(0.5) == pytest.approx(0.2)
    assert reach.of(1.0) == 1.0  # where the laws themselves decide


def test_reach_leaves_an_allowed_schedule_alone_for_good():
    reach = Reach()
    taken(reach, 1.0, 2.0)
    taken(reach, 0.5, 0.1)
    assert reach.of(0.5) == 1.0


def test_reach_tells_a_cut_from_a_limit_that_falls_as_the_rate_does():
    reach = Reach()
    for level in (0.8, 0.8, 0.2):
        taken(reach, 1.0, level)
    assert reach.is_cut(allowed(0.2))  # the limit of now is what holds the decay
    assert reach.is_cut(allowed(0.11))  # or nearly: readings scatter
    assert not reach.is_cut(allowed(0.09))  # a lower limit, of a decay that is lower still
    again = Reach()
    again.load_state_dict(reach.state_dict())
    assert again.is_cut(allowed(0.2))
    again.load_state_dict({k: v for k, v in reach.state_dict().items() if k != "reached"})
    assert not again.is_cut(allowed(0.2))  # an older state remembers no rate to go back to
    taken(reach, 0.9, 0.7)
    assert not reach.is_cut(allowed(0.7))  # it was given back


def test_what_the_first_steps_allowed_is_nothing_to_go_back_to():
    reach = Reach()
    for early in (True, True, False):
        reach.current = 1.0
        reach.advance(allowed(0.9 if early else 0.2), early=early)
    assert not reach.is_cut(allowed(0.2)) and not reach.is_short(allowed(0.2))
    assert reach.is_short(allowed(0.1))


LEVEL, PEAK = 40, 1.0


def held(curvature, *, rise=None, relapsed=False):
    """Steps of a schedule that decays from 40 on, cut at 38, and whether each asks for a probe."""
    ceiling = Ceiling(
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK),
        GuardSettings(),
        signal="sharpness",
        target=0.9,
        n_before=0,
        rise=rise,
        in_line=rise is not None,
    )
    asked = {}
    for step in range(100):
        schedule = PEAK if step <= LEVEL or rise else PEAK - 0.01 * (step - LEVEL)
        ceiling.advance_to(step, schedule)
        if step in (0, 20, 38, 39):
            ceiling.take(1.0 if step < 38 else curvature, math.nan, step=step, elapsed=20)
        if step == 39 and relapsed:
            ceiling.edge.halve(0.1, cap=0.05)
        ceiling.factor(schedule)
        if step > LEVEL:
            asked[step] = (ceiling.holds_blindly(step, 39), ceiling.reason)
    return asked, ceiling


@pytest.mark.parametrize(
    ("curvature", "relapsed", "asks"),
    [(100.0, False, True), (2.5, False, False), (1.0, True, False)],
)
def test_a_deep_cut_at_the_peak_is_measured_again_in_the_decay(curvature, relapsed, asks):
    """Whatever the budget: a burst of curvature must not hold a rate down for hundreds of steps."""
    asked, ceiling = held(curvature, relapsed=relapsed)
    scaled = {step: blind for step, (blind, reason) in asked.items() if reason == SCALED}
    late = [step for step in scaled if step - 39 > ceiling.patience]
    assert len(late) > 20 and late[-1] == 99
    assert all(scaled[step] == asks for step in late)
    assert not any(blind for step, blind in scaled.items() if step not in late)


@pytest.mark.parametrize(("curvature", "asks"), [(1.9, False), (2.5, True)])
def test_mode_auto_asks_over_budget_only_where_it_is_well_below_its_level(curvature, asks):
    """At the edge it is at home: the level phase would else spend twice the budget."""
    ramp = MeasuredRamp(100, warmup=0.1)
    asked, ceiling = held(curvature, rise=ramp)
    late = [blind for step, (blind, reason) in asked.items() if step - 39 > ceiling.patience]
    assert ceiling.reason == CEILING and len(late) > 20 and set(late) == {asks}


def test_nan_may_not_reach_a_limit():
    with pytest.raises(ValueError, match="failed probe"):
        Limit(0.9).measured(math.nan, 1)


def test_the_alarm_fires_above_its_range_only():
    alarm = RangeAlarm()
    values = [1.0 + 0.05 * math.sin(i) for i in range(40)]
    assert not any(alarm(v) for v in values)
    assert not alarm(0.2)  # a fall is no danger
    assert alarm(3.0)
    assert alarm(math.nan)
    assert math.nan not in alarm.values


def test_the_alarm_needs_evidence():
    alarm = RangeAlarm()
    assert not any(alarm(10.0**i) for i in range(15))


def test_events_are_bounded_and_drained():
    log = EventLog()
    for step in range(CAPACITY + 5):
        log.add(step, "info", "CODE", "words")
    assert len(log.pending) == CAPACITY and log.pending[0].step == 5
    assert len(log.drain()) == CAPACITY
    assert log.drain() == []


def test_a_series_thins_itself_and_keeps_the_whole_run():
    series = Series(("step", "value"), capacity=16)
    for step in range(1000):
        series.append(step, step**2)
    steps = series.column("step")
    assert 8 <= len(steps) <= 16
    assert steps[0] == 0 and steps[-1] >= 1000 - series.stride
    assert {b - a for a, b in itertools.pairwise(steps)} == {series.stride}
    assert series.column("value") == [s**2 for s in steps]


def test_history_survives_a_round_trip():
    one, two = History(), History()
    for step in range(5):
        one.steps.append(step, 0.1, 0.2, math.nan, 0)
    two.load_state_dict(one.state_dict())
    assert str(two.steps.rows) == str(one.steps.rows)  # NaN-safe
    assert two.probes.rows == []


class Nested(torch.optim.SGD):
    """A user's optimizer whose step calls its parent's: torch runs the hooks twice."""

    def step(self, closure=None):
        return super().step(closure)


def test_steps_are_counted_once_however_deep():
    x = torch.nn.Parameter(torch.zeros(1))
    torch.optim.SGD([x], lr=0.1)  # patches the parent's step
    optimizer = Nested([x], lr=0.1)
    counter = StepCounter(optimizer)
    for _ in range(3):
        optimizer.step()
    assert counter.n == 3


def test_a_step_that_raised_is_forgotten():
    x = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([x], lr=0.1)
    counter = StepCounter(optimizer)

    def closure():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        optimizer.step(closure)
    counter.settle()
    optimizer.step()
    assert counter.n == 1
