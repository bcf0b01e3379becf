"""A loss above its start: what the edge allows is halved, and only then."""

import math

import pytest
import torch
from torch import nn

from homotopy_cli import HomotopyLR


def scheduler_of(optimizer_class=torch.optim.SGD, lr=1e3, **settings):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = optimizer_class(model.parameters(), lr=lr)
    made = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), total_steps=100, **settings)
    return model, optimizer, made


def step(model, optimizer, scheduler, loss):
    x, y = torch.randn(16, 4), torch.randint(3, (16,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    before = scheduler.ceiling
    scheduler.update_curvature(x, y, loss=loss)
    after = scheduler.ceiling
    optimizer.step()
    scheduler.step()
    return before, after


def events(scheduler):
    return [event.code for event in scheduler.drain_events()]


def test_a_loss_above_its_start_halves_the_edge_and_says_so():
    parts = scheduler_of(floor=0.0)
    for _ in range(2):
        step(*parts, loss=2.0)
    before = [step(*parts, loss=2.0)[0] for _ in range(5)]
    assert "RELAPSE" not in events(parts[2])
    rate = parts[1].param_groups[0]["lr"]
    _, after = step(*parts, loss=3.6)
    assert after <= 0.5 * rate * 1.06
    assert "RELAPSE" in events(parts[2])
    for _ in range(60):  # released, but not to where it happened
        step(*parts, loss=2.0)
    assert 0.6 * rate < parts[2].ceiling <= max(before)


@pytest.mark.parametrize(
    ("settings", "losses"),
    [
        ({"lr": 1e-6}, [2.0] * 6 + [3.6]),  # far below the edge: a batch, or a curriculum
        ({}, [2.0] * 6 + [3.2]),  # within what batches differ by
        ({}, [2.0, 3.6, 3.6, 2.0]),  # before the first loss says anything
        ({}, [-2.0] * 6 + [3.6]),  # a loss without a start to compare with
        ({"optimizer_class": torch.optim.Adam}, [2.0] * 6 + [3.6]),  # its metric moves
        ({"signal": "kappa"}, [2.0] * 6 + [3.6]),
        ({"alpha": 0.0}, [2.0] * 6 + [9.0]),  # measured only: there is no rate to halve
        ({}, [2.0, 9.0, 8.0, 7.0, 6.0, 5.0]),  # on its way back
    ],
)
def test_nothing_else_does(settings, losses):
    parts = scheduler_of(**settings)
    for loss in losses:
        step(*parts, loss=loss)
    assert "RELAPSE" not in events(parts[2])


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adam])
def test_three_times_the_start_needs_no_edge(optimizer_class):
    parts = scheduler_of(optimizer_class, lr=1e-6)
    for loss in [2.0] * 6 + [6.1, math.inf]:
        step(*parts, loss=loss)
    assert events(parts[2]).count("RELAPSE") == 2


def test_it_goes_on_after_a_resume():
    parts = scheduler_of()
    for _ in range(6):
        step(*parts, loss=2.0)
    model, optimizer, again = scheduler_of()
    again.load_state_dict(parts[2].state_dict())
    again._guard.counter.n = 6
    step(model, optimizer, again, loss=3.6)
    assert "RELAPSE" in events(again)


def test_a_step_at_rate_0_is_not_halved():
    parts = scheduler_of(floor=0.0, inner=lambda k: float(k != 7))
    for _ in range(7):
        step(*parts, loss=2.0)
    step(*parts, loss=20.0)
    assert parts[2].ceiling > 0.0
    step(*parts, loss=2.0)
    assert parts[1].param_groups[0]["lr"] > 0.0
