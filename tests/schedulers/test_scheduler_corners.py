"""What happens at the edges of a loop: failures, files loaded in part, strange set-ups."""

import copy
import pickle

import pytest
import torch
from setups import batches, network, train
from torch import nn

from homotopy_cli import HomotopyLR
from homotopy_cli.records import LR_REASONS


def backward(model, batch, poison=False):
    model.zero_grad()
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    if poison:
        next(model.parameters()).grad.fill_(torch.inf)


@pytest.mark.parametrize("fault", ["gradient", "probe"])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_with_alpha_0_a_failure_lowers_nothing_and_else_it_says_why(fault, alpha):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), alpha=alpha)
    x, y = batches(1)[0]
    backward(model, (x, y), poison=fault == "gradient")
    scheduler.update_curvature(x if fault == "gradient" else x * torch.nan, y)
    messages = {e.code: e.message for e in scheduler.events}
    if alpha:
        assert scheduler.get_last_lr() == [pytest.approx(0.1 * 1e-2)]
        assert LR_REASONS[scheduler.lr_reason] == "held"
        assert messages["CEILING_ON"].endswith("0.1: no probe has succeeded yet")
    else:
        assert scheduler.get_last_lr() == [0.1]
        assert LR_REASONS[scheduler.lr_reason] == "schedule"
        assert "CEILING_ON" not in messages
    if fault == "probe":
        kept = "rates are held at the floor" if alpha else "there is no ceiling yet"
        assert messages["PROBE_FAILED"].endswith(kept)


def held_run(optimizer_kind=torch.optim.SGD, tensor=False):
    """A run whose ceiling is far below the schedule, and its last rates."""
    model = network(dropout=0.0)
    rate = torch.tensor(30.0) if tensor else 30.0
    optimizer = optimizer_kind(model.parameters(), lr=rate)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), budget=9.0)
    train(model, optimizer, scheduler, batches(4))
    assert scheduler.get_last_lr()[0] < 5.0
    return model, optimizer, scheduler


@pytest.mark.parametrize("tensor", [False, True])
def test_a_loaded_optimizers_rate_is_not_taken_for_somebody_elses_cut(tensor):
    """The checkpoint's rate is an old ceiling: without the scheduler's state it means nothing."""
    model, optimizer, _ = held_run(tensor=tensor)
    fresh = torch.optim.SGD(model.parameters(), lr=torch.tensor(30.0) if tensor else 30.0)
    scheduler = HomotopyLR(fresh, model, nn.CrossEntropyLoss(), budget=9.0)
    fresh.load_state_dict(optimizer.state_dict())
    assert float(fresh.param_groups[0]["lr"]) == 30.0
    train(model, fresh, scheduler, batches(3))
    assert scheduler.schedule_lr == 30.0


@pytest.mark.parametrize("way", [None, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_rolling_back_model_and_optimizer_alone_keeps_the_schedule(way):
    parts = held_run()
    model, optimizer, scheduler = parts if way is None else way(parts)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, scheduler, batches(30, seed=2))
    now = scheduler.get_last_lr()
    assert now[0] != pytest.approx(saved[1]["param_groups"][0]["lr"], rel=1e-3)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert [group["lr"] for group in optimizer.param_groups] == now
    train(model, optimizer, scheduler, batches(1))
    assert scheduler.schedule_lr == 30.0


def test_an_optimizer_outlives_its_scheduler():
    _, optimizer, scheduler = held_run()
    state, rates = optimizer.state_dict(), scheduler._rates
    del scheduler, rates
    optimizer.load_state_dict(state)


@pytest.mark.parametrize("order", ["optimizer first", "scheduler first"])
def test_with_the_schedulers_state_the_resume_is_bitwise_in_either_order(order):
    data = batches(20)
    whole = held_run()
    expected = train(*whole, data)
    model, optimizer, scheduler = held_run()
    used = train(model, optimizer, scheduler, data[:7])
    fresh = network(dropout=0.0, seed=3)
    other = torch.optim.SGD(fresh.parameters(), lr=30.0)
    again = HomotopyLR(other, fresh, nn.CrossEntropyLoss(), budget=9.0)
    fresh.load_state_dict(model.state_dict())
    pairs = [(other, optimizer), (again, scheduler)]
    for new, old in pairs if order == "optimizer first" else reversed(pairs):
        new.load_state_dict(old.state_dict())
    assert used + train(fresh, other, again, data[7:], start=7) == expected


def test_a_group_added_since_keeps_the_rate_that_is_loaded_for_it():
    model, optimizer, scheduler = held_run()
    more = nn.Linear(2, 2)
    optimizer.add_param_group({"params": more.parameters(), "lr": 0.5})
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, scheduler, batches(1))
    assert scheduler.schedule_rates() == [30.0, 0.5]


@pytest.mark.parametrize("inner", [None, "callable", "lambda", "exponential"])
def test_a_group_made_with_rate_0_is_unfrozen_by_hand(inner):
    model = network(dropout=0.0)
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[4].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    made = {
        None: lambda: None,
        "callable": lambda: lambda t: 0.9**t,
        "lambda": lambda: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.9**t),
        "exponential": lambda: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
    }[inner]()
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), alpha=0.0, inner=made)
    frozen = train(model, optimizer, scheduler, batches(3))
    assert [row[0] for row in frozen] == [0.0] * 3
    optimizer.param_groups[0]["lr"] = 0.05
    used = train(model, optimizer, scheduler, batches(4), start=3)
    assert all(row[0] > 0.02 for row in used)
    if inner is None:
        assert [row[0] for row in used] == [0.05] * 4
    optimizer.param_groups[0]["lr"] = 0.0  # and frozen again
    assert train(model, optimizer, scheduler, batches(1))[0][0] == 0.0
