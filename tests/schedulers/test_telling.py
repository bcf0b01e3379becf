"""What a run says of its probes: that they are spent, or fail."""

import warnings

import pytest
import torch
from setups import batches, network
from torch import nn

from homotopy_cli import HomotopyLR
from homotopy_cli.schedulers import sliced
from homotopy_cli.schedulers.baselines import cosine

STEPS = 300


def _events(inner=None, **settings):
    return _run(inner, **settings)[:2]


def _run(inner, lr=1e-3, optimizer_class=torch.optim.Adam, **settings):
    """UNWATCHED events of one run, the steps of its probes, and the scheduler."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = optimizer_class(model.parameters(), lr=lr)
    scheduler = HomotopyLR(
        optimizer,
        model,
        nn.functional.mse_loss,
        inner=inner,
        **{"total_steps": STEPS} | settings,
    )
    inputs = torch.randn(64, 8)
    batch = inputs, inputs.square().sum(1, keepdim=True)
    told, probes = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(batch[0]), batch[1]).backward()
        if scheduler.update_curvature(*batch) is not None:
            probes.append(step)
        optimizer.step()
        scheduler.step()
        told += [e for e in scheduler.drain_events() if e.code == "UNWATCHED"]
    return told, probes, scheduler


@pytest.fixture
def dear(monkeypatch):
    """Passes cost what they do for a small model on a GPU."""
    monkeypatch.setattr(sliced, "pass_cost", lambda *args, **sizes: 2.5)


def _warmed(steps=150):
    return cosine(STEPS, warmup_steps=steps)


def test_a_schedule_that_no_probe_watches_is_told_once(dear):
    told, probes = _events(_warmed())
    assert [e.level for e in told] == ["warning"]
    later = [step for step in probes if step > told[0].step]
    assert not later or later[0] - told[0].step >= 0.1 * STEPS
    until = f"before step {later[0]}" if later else "for the rest of the run"
    assert until in told[0].message


def test_a_budget_that_reaches_is_not(dear):
    assert not _events(_warmed(), budget=float("inf"))[0]


def test_probes_at_a_cpus_cost_are_enough():
    assert not _events(_warmed(60))[0]


def test_a_rate_that_no_longer_rises_is_left_alone(dear):
    assert not _events(_warmed(20))[0]


def test_rates_in_the_measured_line_are_held_by_it(dear):
    told, _, scheduler = _run(_warmed(), lr=1e3)
    assert scheduler._guard.ceiling.in_line
    assert not told


def test_a_ceiling_that_does_not_act_watches_nothing(dear):
    assert not _events(_warmed(), alpha=0.0)[0]


@pytest.mark.parametrize("signal", ["auto", "trust_ratio"])
@pytest.mark.parametrize(
    ("given", "n"), [(None, 1), ("cross_entropy", 0), (nn.CrossEntropyLoss(), 0)]
)
def test_a_loss_that_was_guessed_is_told_once(given, n, signal):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = HomotopyLR(optimizer, model, given, signal=signal, total_steps=10)
    x, y = torch.randn(16, 4), torch.randint(3, (16,))
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        scheduler.update_curvature(x, y)
        optimizer.step()
        scheduler.step()
    told = [event for event in scheduler.drain_events() if event.code == "LOSS_GUESSED"]
    assert len(told) == n
    assert all("class indices" in event.message for event in told)


@pytest.mark.parametrize(
    "settings",
    [{"total_steps": 0}, {"scale_decay": False}, {"signal": "directional"}, {"layers_freq": 50}],
    ids=str,
)
def test_it_is_told_whatever_else_is_set(dear, settings):
    told, _ = _events(_warmed(), **settings)
    assert told and "budget of 0.05 allows" in told[0].message


def test_the_line_is_recommended_only_where_there_is_one(dear):
    assert "measured line" in _events(_warmed())[0][0].message
    (told, *_), _ = _events(_warmed(), optimizer_class=torch.optim.SGD)
    assert "measured line" not in told.message


def run_with_poison(poison, *, drains=False, n=60, optimizer=torch.optim.SGD):
    """The steps' probes of `poison` fail; returns the warnings and the scheduler."""
    model = network()
    taken = optimizer(model.parameters(), lr=0.01)
    settings = {"total_steps": n, "estimation_freq": 2, "budget": float("inf")}
    scheduler = HomotopyLR(taken, model, nn.CrossEntropyLoss(), **settings)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for step, (x, y) in enumerate(batches(n)):
            taken.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            scheduler.update_curvature(x * float("nan") if step in poison else x, y)
            taken.step()
            scheduler.step()
            if drains:
                scheduler.drain_events()
    told = [w for w in seen if "curvature probe" in str(w.message)]
    assert all(w.filename == __file__ for w in told)
    return [str(w.message) for w in told], scheduler


def test_the_first_failed_probe_of_a_row_is_warned_of_and_the_tenth():
    told, scheduler = run_with_poison(range(5, 60))
    assert scheduler.n_failed_probes > 10
    first, tenth = told
    assert first.startswith("a curvature probe failed, at step 6 (the loss is nan): the last cei")
    assert tenth.startswith("10 curvature probes in a row failed, at step")
    assert all(words.endswith("`.events` tells more") for words in told)


def test_each_row_is_told_anew():
    told, _ = run_with_poison({6, 7, 30, 31})
    assert [words.split(" (")[0][-2:].strip() for words in told] == ["6", "30"]


def test_who_takes_the_events_is_not_told_twice():
    assert run_with_poison(range(5, 60), drains=True)[0] == []


def test_a_start_of_nan_is_told_after_ten():
    (told,), _ = run_with_poison(range(60))
    assert told.startswith("10 curvature probes in a row") and "held at the floor" in told
