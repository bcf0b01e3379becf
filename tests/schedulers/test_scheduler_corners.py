"""What happens at the edges of a loop: failures, files loaded in part, strange set-ups."""

import copy
import pickle
import warnings

import pytest
import torch
from setups import SCHEDULERS, batches, network, train
from torch import nn

from homotopy_cli import (
    CurvatureAdaptiveLR,
    CurvatureEstimator,
    CurvatureWarmup,
    HomotopyLR,
)
from homotopy_cli.errors import ProblemError
from homotopy_cli.integrations.ceiling import BorrowedCeiling
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


@pytest.mark.filterwarnings("ignore:.*curvature probe.* failed:UserWarning")
def test_a_probe_that_keeps_failing_is_tried_by_plan_not_at_every_step():
    model, optimizer, scheduler = held_run()
    limit = scheduler.ceiling
    used = train(model, optimizer, scheduler, batches(200), start=4, poison=range(4, 204))
    assert 10 <= scheduler.n_failed_probes <= 30  # every estimation_freq steps, 10
    assert limit <= max(rates[0] for rates in used) < 30.0  # old evidence releases ever less


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


def test_a_warmup_that_has_finished_comes_back_with_an_earlier_state():
    model = network(dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    settings = {"warmup_steps": 5, "total_steps": 100, "budget": 9.0}
    scheduler = CurvatureWarmup(optimizer, model, nn.CrossEntropyLoss(), **settings)
    train(model, optimizer, scheduler, batches(2))
    early = copy.deepcopy((model.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    expected = train(model, optimizer, scheduler, batches(80))
    assert scheduler.finished and not scheduler.enabled
    for part, state in zip((model, optimizer, scheduler), early, strict=True):
        part.load_state_dict(state)
    assert scheduler.enabled and not scheduler.finished
    assert train(model, optimizer, scheduler, batches(80)) == expected
    assert scheduler.finished


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("auto", "mode auto has no learning rate until then"),
        ("guard", "follows its schedule alone"),
    ],
)
def test_who_never_calls_update_curvature_is_told_what_that_means(mode, words):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), mode=mode)
    with pytest.warns(UserWarning, match=words):
        for x, y in batches(3):
            backward(model, (x, y))
            optimizer.step()
            scheduler.step()


class Wrapped(torch.optim.Optimizer):
    """The shape of accelerate's AcceleratedOptimizer: torch's __init__ never runs."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)
    defaults = property(lambda self: self.optimizer.defaults)

    def step(self, closure=None):
        self.optimizer.step(closure)

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad()


GUARDS = [(name, "guard") for name in SCHEDULERS]


@pytest.mark.parametrize(("name", "mode"), [*GUARDS, ("homotopy", "auto"), ("facade", "auto")])
def test_a_wrapped_optimizer_is_the_one_inside(name, mode):
    found = []
    for wrap in (lambda o: o, Wrapped):
        model = network(dropout=0.0)
        optimizer = wrap(torch.optim.Adam(model.parameters(), lr=3.0))
        more = {"mode": "auto"} if mode == "auto" else {}
        if mode == "guard" and name == "homotopy":
            more["inner"] = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        scheduler = SCHEDULERS[name](optimizer, model, nn.CrossEntropyLoss(), **more)
        found.append(train(model, optimizer, scheduler, batches(6)))
        assert scheduler._guard.n_steps == 6
    assert found[0] == found[1]


def test_a_wrapped_optimizer_under_a_borrowed_ceiling():
    model = network(dropout=0.0)
    inner = torch.optim.Adam(model.parameters(), lr=3.0)
    ceiling = BorrowedCeiling(Wrapped(inner), model, "cross_entropy")
    x, y = batches(1)[0]
    backward(model, (x, y))
    ceiling.before_step((x, y))
    assert ceiling.optimizer is inner and ceiling.factor < 1.0


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_a_step_that_a_fused_optimizer_skips_is_not_counted(kind):
    model = network(dropout=0.0)
    optimizer = kind(model.parameters(), lr=0.1, fused=True)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), budget=9.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step, (x, y) in enumerate(batches(6)):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss * torch.inf if step in (1, 4) else loss).backward()
        before = [p.detach().clone() for p in model.parameters()]
        scheduler.update_curvature(x, y)
        scaler.step(optimizer)
        same = all(map(torch.equal, before, model.parameters()))
        assert same == (step in (1, 4))
        scaler.update()
        scheduler.step()
    assert scheduler._guard.n_steps == 4


def test_an_exception_in_a_closure_costs_no_later_step():
    model = network(dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss())
    train(model, optimizer, scheduler, batches(3))

    def fails():
        raise RuntimeError("out of data")

    with pytest.raises(RuntimeError, match="out of data"):
        optimizer.step(fails)
    train(model, optimizer, scheduler, batches(3))
    assert scheduler._guard.n_steps == 6


def test_nan_at_every_step_gives_two_events_and_not_two_thousand():
    model = network(dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), budget=9.0)
    data, resumed = batches(20), None
    for step, (x, y) in enumerate(data):
        bad = 4 <= step < 15
        backward(model, (x, y), poison=bad)
        scheduler.update_curvature(x, y, loss=torch.nan if bad else 1.0)
        if not bad:
            optimizer.step()
        scheduler.step()
        if step == 9:  # the count goes on after a resume
            resumed = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), budget=9.0)
            resumed.load_state_dict(scheduler.state_dict())
            scheduler = resumed
    kinds = ("ALARM", "GRADIENT_NONFINITE")
    told = [(e.code, e.message) for e in scheduler.events if e.code in kinds]
    assert told == [
        ("ALARM", "loss out of range"),
        ("GRADIENT_NONFINITE", "inf or NaN: nothing to probe"),
        ("ALARM", "over: it was seen 11 times in a row"),
        ("GRADIENT_NONFINITE", "over: it was seen 11 times in a row"),
    ]


def test_an_error_names_the_users_own_loss():
    def my_loss(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets), 1

    model = network()
    scheduler = HomotopyLR(torch.optim.SGD(model.parameters(), lr=0.1), model, my_loss)
    x, y = batches(1)[0]
    with pytest.raises(ProblemError, match="loss my_loss returns tuple"):
        scheduler.update_curvature(x, y)


def test_a_model_that_takes_keywords_is_told_how_to_be_measured():
    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x=None):
            return self.net(x)

    model = Keywords()
    scheduler = HomotopyLR(
        torch.optim.SGD(model.parameters(), lr=0.1), model, nn.CrossEntropyLoss()
    )
    x, y = batches(1)[0]
    with pytest.raises(ProblemError, match="must be Tensor, not dict") as caught:
        scheduler.update_curvature({"x": x}, y)
    assert "loss_fn(model, batch)" in caught.value.hint
    assert "update_curvature(batch=batch)" in caught.value.hint


@pytest.mark.parametrize("signal", ["auto", "secant", "trust_ratio"])
def test_a_models_own_generator_is_where_it_was(signal):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network(dropout=0.0)
            self.draws = torch.Generator().manual_seed(3)

        def forward(self, x):
            return self.net(x + 0.1 * torch.randn(x.shape, generator=self.draws))

    model = Noisy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), signal=signal)
    for x, y in batches(2):
        backward(model, (x, y))
        before = model.draws.get_state()
        scheduler.update_curvature(x, y)
        assert torch.equal(model.draws.get_state(), before)
    optimizer.step()  # which a trust ratio is read after
    assert torch.equal(model.draws.get_state(), before)


def facade(model, criterion):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return optimizer, CurvatureAdaptiveLR(optimizer, model, criterion)


@pytest.mark.parametrize("case", ["two calls", "regulariser", "validation", "model"])
def test_step_says_which_loss_it_measures_where_that_is_not_the_one_given(case):
    model = network(dropout=0.0)
    criterion = nn.CrossEntropyLoss()
    if case == "model":
        model, criterion = WithLoss(model), None
    optimizer, scheduler = facade(model, criterion)
    (x, y), other = batches(2)
    with pytest.warns(UserWarning, match="the curvature of that call alone is measured") as caught:
        for _ in range(3):
            optimizer.zero_grad()
            loss = criterion(model(x), y) if criterion else model({"x": x, "y": y}) + 0.5
            if case == "two calls":
                loss = loss + criterion(model(other[0]), other[1])
            elif case == "validation":
                model.eval()
                criterion(model(other[0]), other[1])
                model.train()
            elif case == "regulariser":
                loss = loss + 0.1 * sum(p.norm() for p in model.parameters())
            loss.backward()
            scheduler.step(loss)
            optimizer.step()
    assert len(caught) == 1
    (event,) = [e for e in scheduler.events if e.code == "OTHER_LOSS"]
    assert event.step == 0 and event.message.startswith("step(loss) was given a loss of")


class WithLoss(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, batch):
        return nn.functional.cross_entropy(self.net(batch["x"]), batch["y"])


@pytest.mark.parametrize("share", [1.0, 0.25, 1 / 3])
def test_the_captured_loss_and_a_whole_fraction_of_it_are_the_one_that_is_measured(share):
    model, criterion = network(), nn.CrossEntropyLoss()
    optimizer, scheduler = facade(model, criterion)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x, y in batches(4):
            optimizer.zero_grad()
            loss = criterion(model(x), y) * share
            loss.backward()
            scheduler.step(loss)
            optimizer.step()
    assert not [e for e in scheduler.events if e.code == "OTHER_LOSS"]
    assert scheduler.n_probes > 0


def test_a_class_without_mode_auto_says_so_and_nothing_else():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="CurvatureWarmup has no mode auto: use HomotopyLR"):
        CurvatureWarmup(optimizer, model, nn.CrossEntropyLoss(), mode="auto", total_steps=50)


def test_the_founding_order_of_arguments_needs_no_keywords():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), 0.1)
    assert scheduler.get_last_lr() == [0.1]
    assert CurvatureEstimator(model, nn.CrossEntropyLoss(), "power").method == "power"
