"""Baseline schedules against closed forms and against torch's own schedulers."""

import io
import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, StepLR

from homotopy_cli.schedulers import baselines
from homotopy_cli.schedulers.baselines import build_schedule


def torch_factors(make, steps):
    x = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([x], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def test_cosine_agrees_with_torch():
    ours = [baselines.cosine(50, final=0.1)(t) for t in range(50)]
    theirs = torch_factors(lambda o: CosineAnnealingLR(o, T_max=49, eta_min=0.1), 50)
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_linear_agrees_with_torch():
    ours = [baselines.linear(20, final=0.25)(t) for t in range(30)]
    theirs = torch_factors(lambda o: LinearLR(o, 1.0, 0.25, total_iters=19), 30)
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_step_agrees_with_torch():
    ours = [baselines.step(90, gamma=0.2)(t) for t in range(90)]
    theirs = torch_factors(lambda o: StepLR(o, 30, gamma=0.2), 90)
    assert ours == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("name", baselines.SCHEDULES)
def test_warmup_is_linear_and_never_zero(name):
    schedule = build_schedule(name, 100, warmup_steps=10)
    assert [schedule(t) for t in range(10)] == pytest.approx([(t + 1) / 10 for t in range(10)])
    assert schedule(10) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd", "exponential"])
def test_the_last_step_reaches_the_final_factor_and_it_holds(name):
    schedule = build_schedule(name, 100, warmup_steps=5, final=0.125)
    assert schedule(99) == pytest.approx(0.125)
    assert schedule(250) == pytest.approx(0.125)


def test_wsd_is_stable_until_its_decay():
    schedule = baselines.wsd(100, warmup_steps=10, decay_steps=20)
    assert {schedule(t) for t in range(9, 80)} == {1.0}
    assert schedule(80) == pytest.approx(0.95)
    assert schedule(89) == pytest.approx(0.5)


def test_exponential_holds_and_then_loses_the_same_factor_every_step():
    schedule = baselines.exponential(101, warmup_steps=10, hold_steps=20, final=1e-4)
    assert {schedule(t) for t in range(9, 31)} == {1.0}
    assert schedule(65) == pytest.approx(1e-2)
    ratios = [schedule(t + 1) / schedule(t) for t in range(30, 100)]
    assert ratios == pytest.approx([1e-4 ** (1 / 70)] * 70)


def test_a_hold_as_a_share_of_the_run():
    assert build_schedule("exponential", 200, hold=0.3).hold_steps == 60
    assert build_schedule("exponential", 200, hold=30).hold_steps == 30


def test_warmup_as_a_share_of_the_run():
    assert build_schedule("cosine", 200, warmup=0.1).warmup_steps == 20
    assert build_schedule("cosine", 200, warmup=7).warmup_steps == 7


def test_with_an_optimizer_it_is_a_lambda_lr_whose_state_is_weights_only():
    x = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([x], lr=0.5)
    scheduler = build_schedule("cosine", 10, optimizer=optimizer, warmup_steps=2)
    assert isinstance(scheduler, LambdaLR)
    assert optimizer.param_groups[0]["lr"] == 0.25
    file = io.BytesIO()
    torch.save(scheduler.state_dict(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["last_epoch"] == 0


@pytest.mark.parametrize(
    ("name", "total", "settings", "words"),
    [
        ("cosin", 10, {}, "unknown schedule 'cosin': one of constant, cosine"),
        ("cosine", 0, {}, "cosine: total_steps is 0"),
        ("linear", 10, {"warmup_steps": 10}, "warmup_steps 10 leaves nothing of total_steps 10"),
        ("wsd", 10, {"warmup_steps": 5, "decay_steps": 6}, "do not fit"),
        ("step", 0, {}, "give step_size"),
        ("exponential", 10, {"hold_steps": 10}, "warmup and hold of 10 leaves nothing"),
        ("exponential", 10, {"final": 0.0}, r"final is 0.0: it must be in \(0, 1\]"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(name, total, settings, words):
    with pytest.raises(ValueError, match=words):
        build_schedule(name, total, **settings)


def test_cosine_closed_form_at_the_middle():
    assert baselines.cosine(101)(50) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
