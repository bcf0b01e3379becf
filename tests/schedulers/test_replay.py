"""Replayed rates: exactly those of the run, or the same cuts in another order."""

from itertools import pairwise

import pytest

from homotopy_cli.schedulers.replay import replay, shuffled

PLAN = [1.0, 2.0, 3.0, 4.0, 4.0, 3.0, 2.0, 1.0]
RATES = [0.5, 1.0, 3.0, 2.0, 4.0, 3.0, 2.0, 0.1]


def test_the_rates_come_back():
    made = replay(RATES, PLAN, base_lr=0.5)
    assert [0.5 * made(step) for step in range(8)] == RATES
    assert made(100) == made(7)


def test_the_placebo_keeps_the_schedule_and_the_cuts():
    made = replay(RATES, PLAN, base_lr=2.0, blocks=4, seed=1)
    cuts = [2.0 * made(t) / PLAN[t] for t in range(8)]
    assert sorted(cuts) == pytest.approx(sorted(r / s for r, s in zip(RATES, PLAN, strict=True)))
    assert cuts != pytest.approx([r / s for r, s in zip(RATES, PLAN, strict=True)])
    assert replay(RATES, PLAN, base_lr=2.0, blocks=4, seed=1) == made
    assert replay(RATES, PLAN, base_lr=2.0, blocks=4, seed=2) != made


def test_stretches_stay_together():
    order = shuffled(range(10), blocks=3, seed=0)
    assert sorted(order) == list(range(10))
    breaks = sum(b != a + 1 for a, b in pairwise(order))
    assert breaks <= 2
    assert shuffled(range(3), blocks=50, seed=0) != [] == shuffled([], blocks=3, seed=0)


def test_what_cannot_be_replayed_is_refused():
    with pytest.raises(ValueError, match="0 rates"):
        replay([], [], base_lr=1.0)
    with pytest.raises(ValueError, match="8 rates and 7"):
        replay(RATES, PLAN[:7], base_lr=1.0)
    with pytest.raises(ValueError, match="base_lr is 0"):
        replay(RATES, PLAN, base_lr=0.0)
