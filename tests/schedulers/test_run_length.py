"""total_steps taken from an inner schedule that ends with the run, and what is said about it."""

import copy

import pytest
import torch
from setups import batches, network, train
from torch import nn
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
)

from homotopy_cli import AdaptiveHomotopyLR, CurvatureWarmup, HomotopyLR, PerLayerHomotopyLR
from homotopy_cli.schedulers.baselines import constant, cosine
from homotopy_cli.schedulers.length import run_length


def adamw(model=None, lr=1.0):
    return torch.optim.AdamW((model or network()).parameters(), lr=lr)


def warm(optimizer, last):
    return SequentialLR(optimizer, [LinearLR(optimizer, 0.1, 1.0, 10), last], [10])


def advanced(optimizer):
    inner = CosineAnnealingLR(optimizer, 80)
    optimizer.step()
    inner.step()
    return inner


KNOWN = {
    "cosine": (lambda o: CosineAnnealingLR(o, 80), 80),
    "onecycle": (lambda o: OneCycleLR(o, 0.1, total_steps=90), 90),
    "onecycle of epochs": (lambda o: OneCycleLR(o, 0.1, epochs=3, steps_per_epoch=40), 120),
    "polynomial": (lambda o: PolynomialLR(o, total_iters=70), 70),
    "falling line": (lambda o: LinearLR(o, 1.0, 0.1, 60), 60),
    "warmup, then cosine": (lambda o: warm(o, CosineAnnealingLR(o, 50)), 60),
    "under way": (advanced, 80),
    "ours": (lambda o: cosine(100, warmup_steps=5), 100),
}
UNKNOWN = {
    "none": lambda o: None,
    "a function": lambda o: lambda t: 1.0,
    "ours, endless": lambda o: constant(),
    "a rising line, which is a warmup": lambda o: LinearLR(o, 0.1, 1.0, 60),
    "lambda": lambda o: LambdaLR(o, lambda t: 1.0),
    "exponential": lambda o: ExponentialLR(o, 0.9),
    "restarts": lambda o: CosineAnnealingWarmRestarts(o, 20),
    "warmup, then exponential": lambda o: warm(o, ExponentialLR(o, 0.9)),
    "chained": lambda o: ChainedScheduler([CosineAnnealingLR(o, 80), ExponentialLR(o, 0.9)]),
    "a subclass": lambda o: type("Mine", (CosineAnnealingLR,), {})(o, 80),
}


@pytest.mark.filterwarnings("ignore:.*epoch parameter.*:UserWarning")  # SequentialLR's own call
@pytest.mark.parametrize("name", KNOWN)
def test_the_schedules_that_end_with_the_run(name):
    make, steps = KNOWN[name]
    assert run_length(make(adamw()))[0] == steps


@pytest.mark.filterwarnings("ignore:.*epoch parameter.*:UserWarning")
@pytest.mark.parametrize("name", UNKNOWN)
def test_the_schedules_whose_end_is_not_known(name):
    assert run_length(UNKNOWN[name](adamw())) == (0, "")


KINDS = [HomotopyLR, AdaptiveHomotopyLR, CurvatureWarmup, PerLayerHomotopyLR]


def run(kind, **settings):
    model = network()
    optimizer = adamw(model)
    scheduler = kind(
        optimizer, model, nn.CrossEntropyLoss(), inner=CosineAnnealingLR(optimizer, 80), **settings
    )
    used = train(model, optimizer, scheduler, batches(80))
    return used, model.state_dict(), scheduler


@pytest.mark.parametrize("kind", KINDS)
def test_the_inferred_length_is_bitwise_the_given_one(kind):
    (used, weights, found), (want, plain, given) = run(kind), run(kind, total_steps=80)
    assert used == want
    assert all(torch.equal(weights[name], plain[name]) for name in plain)
    told = [e for e in found.drain_events() if e.code == "TOTAL_STEPS"]
    assert [e.level for e in told] == ["info"]
    assert told[0].message == "total_steps is not given: 80 as T_max of CosineAnnealingLR says"
    assert not [e for e in given.drain_events() if e.code == "TOTAL_STEPS"]


def test_a_rate_far_too_high_has_its_line_without_total_steps():
    """The README's loop: what the inner schedule knows need not be said twice."""
    used, _, scheduler = run(HomotopyLR)
    assert scheduler._guard.ceiling.rise is not None
    codes = [e.code for e in scheduler.drain_events()]
    assert "NO_LINE" not in codes
    assert max(rate for (rate,) in used) < 0.5


def events_of(make=adamw, **settings):
    model = network()
    scheduler = HomotopyLR(make(model), model, nn.CrossEntropyLoss(), **settings)
    return {e.code: e for e in scheduler.drain_events()}


def test_where_nothing_tells_the_length_one_event_says_what_is_lost():
    event = events_of()["NO_LINE"]
    assert event.level == "info" and event.step == 0
    assert event.message.startswith("total_steps is not given: a rate far too high is held at")


@pytest.mark.parametrize(
    "settings", [{"total_steps": 80}, {"warmup": 0.0}, {"enabled": False}, {"mode": "auto"}]
)
def test_no_word_of_a_line_that_is_there_or_not_wanted(settings):
    assert "NO_LINE" not in events_of(**settings)


def test_no_word_of_it_where_none_would_be_drawn():
    sgd = lambda model: torch.optim.SGD(model.parameters(), lr=0.1)  # noqa: E731
    assert "NO_LINE" not in events_of(sgd)


def by_epoch(**settings):
    model = network()
    optimizer = adamw(model, lr=0.01)
    inner = CosineAnnealingLR(optimizer, 90)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), inner=inner, **settings)
    for x, y in batches(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        scheduler.update_curvature(x, y)
        optimizer.step()
    return scheduler


def test_a_schedule_counted_in_epochs_is_told():
    scheduler = by_epoch()
    with pytest.warns(UserWarning, match=r"total_steps=90 .* 3 optimizer steps were made"):
        scheduler.step()
    assert [e.level for e in scheduler.drain_events() if e.code == "TOTAL_STEPS"][-1] == "warning"
    scheduler.step()  # once


def test_a_schedule_counted_in_epochs_is_fine_where_the_length_is_given():
    by_epoch(total_steps=90 * 3).step()


def resumable(saved=None, *, inner_first=False, **settings):
    model = network()
    optimizer = adamw(model)
    inner = CosineAnnealingLR(optimizer, 120)
    if saved is not None:
        model.load_state_dict(saved["model"])
    if saved is not None and inner_first:
        optimizer.load_state_dict(saved["optimizer"])
        inner.load_state_dict(saved["inner"])
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), inner=inner, **settings)
    if saved is not None:
        if not inner_first:
            optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
    parts = {"model": model, "optimizer": optimizer, "inner": inner, "scheduler": scheduler}
    return parts, (model, optimizer, scheduler)


def stopped_in_its_line():
    parts, loop = resumable()
    train(*loop, batches(120)[:25])
    assert loop[2]._guard.ceiling.in_line
    return copy.deepcopy({name: part.state_dict() for name, part in parts.items()}), loop


@pytest.mark.parametrize("inner_first", [True, False])
def test_a_run_goes_on_bitwise_whenever_its_inner_schedule_is_restored(inner_first):
    saved, loop = stopped_in_its_line()
    rest = batches(120)[25:]
    state = torch.get_rng_state()
    wanted = train(*loop, rest, start=25)
    parts, again = resumable(saved, inner_first=inner_first)
    torch.set_rng_state(state)
    assert train(*again, rest, start=25) == wanted
    for name, weight in loop[0].state_dict().items():
        assert torch.equal(parts["model"].state_dict()[name], weight)


def test_a_state_in_its_line_loads_where_the_length_is_not_known(monkeypatch):
    saved, _ = stopped_in_its_line()
    monkeypatch.setattr("homotopy_cli.schedulers.homotopy.run_length", lambda inner: (0, ""))
    with pytest.warns(UserWarning, match="give total_steps="):
        _, loop = resumable(saved)
    train(*loop, batches(30)[25:], start=25)
