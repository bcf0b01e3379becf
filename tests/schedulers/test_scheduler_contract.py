"""What every curvature scheduler must hold to, run over all of them."""

import copy
import io
import math
import pickle

import pytest
import torch
from setups import SCHEDULERS, batches, network, train
from torch import nn

from homotopy_cli.errors import ProblemError
from homotopy_cli.schedulers.baselines import build_schedule
from homotopy_cli.schedulers.groups import rates

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
}
each = pytest.mark.parametrize("name", SCHEDULERS)
each_optimizer = pytest.mark.parametrize("optimizer_name", OPTIMIZERS)


def setup(name, optimizer_name="adamw", seed=0, **settings):
    model = network(seed)
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    if name == "warmup":
        settings.setdefault("warmup_steps", 20)
    if name == "adaptive":
        settings.setdefault("warmup_steps", 5)
    scheduler = SCHEDULERS[name](optimizer, model, nn.CrossEntropyLoss(), **settings)
    return model, optimizer, scheduler


def through_weights_only(state):
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True), file.getvalue()


def fingerprint(model):
    return [p.detach().clone() for p in model.state_dict().values()]


@each
def test_it_is_an_lr_scheduler(name):
    _, _, scheduler = setup(name)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    assert scheduler.last_epoch == 0


LONG = {"total_steps": 80, "inner": build_schedule("cosine", 80, warmup=8)}  # a line, a decay


@each
@each_optimizer
@pytest.mark.parametrize("plan", [{}, LONG], ids=["constant", "planned"])
def test_state_is_weights_only_and_a_resumed_run_is_bitwise_the_same(name, optimizer_name, plan):
    """30 steps in one go, against 13 + save + load into fresh objects + 17."""
    data = batches(30)
    settings = {"layers_freq": 4, "burst": 4, **plan}
    model, optimizer, scheduler = setup(name, optimizer_name, **settings)
    torch.manual_seed(7)
    used = train(model, optimizer, scheduler, data)

    first, optimizer_1, scheduler_1 = setup(name, optimizer_name, **settings)
    torch.manual_seed(7)
    before = train(first, optimizer_1, scheduler_1, data[:13])
    saved, _ = through_weights_only(
        {
            "model": first.state_dict(),
            "optimizer": optimizer_1.state_dict(),
            "scheduler": scheduler_1.state_dict(),
            "rng": torch.get_rng_state(),
        }
    )
    second, optimizer_2, scheduler_2 = setup(name, optimizer_name, seed=5, **settings)
    second.load_state_dict(saved["model"])
    optimizer_2.load_state_dict(saved["optimizer"])
    scheduler_2.load_state_dict(saved["scheduler"])
    torch.set_rng_state(saved["rng"])
    assert scheduler_2.get_last_lr() == scheduler_1.get_last_lr()
    after = train(second, optimizer_2, scheduler_2, data[13:], start=13)

    assert before + after == used
    torch.testing.assert_close(fingerprint(second), fingerprint(model), rtol=0, atol=0)
    _, bytes_1 = through_weights_only(scheduler.state_dict())
    _, bytes_2 = through_weights_only(scheduler_2.state_dict())
    assert bytes_1 == bytes_2


@each
def test_the_same_seed_gives_the_same_state_bytes(name):
    """No wall time inside: two runs, the second one slowed down by nothing but chance."""
    saved = []
    for _ in range(2):
        model, optimizer, scheduler = setup(name, layers_freq=4)
        torch.manual_seed(3)
        train(model, optimizer, scheduler, batches(12))
        saved.append(through_weights_only(scheduler.state_dict())[1])
    assert saved[0] == saved[1]


@each
@each_optimizer
def test_disabled_is_bitwise_the_baseline(name, optimizer_name):
    extra = {"warmup_steps": 0} if name == "adaptive" else {}
    data = batches(12)
    schedule = build_schedule("cosine", 12, warmup_steps=3)
    model, optimizer, scheduler = setup(
        name, optimizer_name, inner=schedule, enabled=False, **extra
    )
    torch.manual_seed(3)
    train(model, optimizer, scheduler, data)

    plain = network()
    optimizer = OPTIMIZERS[optimizer_name](plain.parameters())
    baseline = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    torch.manual_seed(3)
    criterion = nn.CrossEntropyLoss()
    for x, y in data:
        optimizer.zero_grad()
        criterion(plain(x), y).backward()
        optimizer.step()
        baseline.step()
    torch.testing.assert_close(fingerprint(model), fingerprint(plain), rtol=0, atol=0)


@each
@each_optimizer
def test_probing_without_acting_leaves_no_trace(name, optimizer_name):
    """One probe: weights, gradients, statistics, modes, hooks, states and RNG stay bitwise."""
    model, optimizer, scheduler = setup(name, optimizer_name)
    criterion = nn.CrossEntropyLoss()
    x, y = batches(1)[0]
    train(model, optimizer, scheduler, batches(3))
    optimizer.zero_grad()
    criterion(model(x), y).backward()
    before = copy.deepcopy(model.state_dict())
    grads = [p.grad.clone() for p in model.parameters()]
    states = copy.deepcopy(optimizer.state_dict()["state"])
    flags = [m.training for m in model.modules()]
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    rng = torch.get_rng_state()
    scheduler._guard.cadence.period, scheduler._guard.cadence.budget = 1, 1.0
    probes = scheduler.n_probes
    scheduler.update_curvature(x, y)
    assert scheduler.n_probes == probes + 1
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close([p.grad for p in model.parameters()], grads, rtol=0, atol=0)
    torch.testing.assert_close(optimizer.state_dict()["state"], states, rtol=0, atol=0)
    assert [m.training for m in model.modules()] == flags
    assert [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()] == hooks
    assert torch.equal(torch.get_rng_state(), rng)


@each_optimizer
def test_a_guard_that_never_acts_trains_bitwise_like_the_baseline(optimizer_name):
    data = batches(20)
    results = []
    for alpha in (0.0, None):
        model, optimizer, scheduler = setup(
            "homotopy", optimizer_name, alpha=alpha or 0.0, enabled=alpha is not None
        )
        torch.manual_seed(3)
        train(model, optimizer, scheduler, data)
        results.append(fingerprint(model))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@each
def test_a_nan_probe_keeps_the_last_ceiling_counts_and_says_so(name):
    model, optimizer, scheduler = setup(name, budget=math.inf)
    data = batches(4)
    train(model, optimizer, scheduler, data[:2])
    limit = scheduler._guard.ceiling.edge
    goal, target = limit.curvature, scheduler._guard.ceiling.target
    scheduler.drain_events()
    train(model, optimizer, scheduler, data[2:3], start=2, poison={2})
    assert limit.curvature == goal
    assert scheduler._guard.ceiling.target == target
    assert scheduler.n_failed_probes == 1
    (event,) = [e for e in scheduler.drain_events() if e.code == "PROBE_FAILED"]
    assert event.level == "warning" and event.step == 2
    assert event.message.endswith("the last ceiling stays")
    train(model, optimizer, scheduler, data[3:], start=3)  # and it goes on
    assert scheduler.n_failed_probes == 1


@each
def test_failed_from_the_start_holds_the_floor(name):
    model, optimizer, scheduler = setup(name, floor=0.01)
    planned = scheduler.schedule_rates()
    used = train(model, optimizer, scheduler, batches(1), poison={0})
    assert used[0] == pytest.approx([0.01 * rate for rate in planned])
    events = {e.code: e for e in scheduler.drain_events()}
    assert events["PROBE_FAILED"].message.endswith("rates are held at the floor")


@each
def test_a_mistake_in_the_set_up_is_raised_not_swallowed(name):
    _, _, scheduler = setup(name)
    with pytest.raises(ProblemError, match="no gradient"):  # before any backward()
        scheduler.update_curvature(*batches(1)[0])
    _, _, scheduler = setup(name, "sgd")
    with pytest.raises(ProblemError, match=r"99"):
        scheduler.update_curvature(torch.zeros(4, 99), torch.zeros(4).long())
    assert scheduler.n_failed_probes == 0


@each
def test_base_lrs_keep_their_ratio(name):
    model = network()
    optimizer = torch.optim.AdamW(
        [
            {"params": model[0].parameters(), "lr": 0.1},
            {"params": [*model[1].parameters(), *model[4].parameters()], "lr": 0.001},
        ]
    )
    scheduler = SCHEDULERS[name](optimizer, model, nn.CrossEntropyLoss())
    if name == "per_layer":
        assert scheduler.base_lrs == [0.1, 0.001, 0.001]
    else:
        assert scheduler.base_lrs == [0.1, 0.001]
    used = train(model, optimizer, scheduler, batches(4))
    for row in used:
        assert row[1] / row[0] == pytest.approx(0.01)


@each
def test_base_lr_scales_all_groups_together(name):
    model = network()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.4}, {"params": model[4].parameters()}], lr=0.1
    )
    key = "target_lr" if name == "warmup" else "base_lr"
    scheduler = SCHEDULERS[name](optimizer, model, nn.CrossEntropyLoss(), **{key: 2.0})
    assert [float(base) for base in scheduler.base_lrs] == pytest.approx([2.0, 0.5])


@each
def test_tensor_rates_are_filled_in_place(name):
    model = network()
    rate = torch.tensor(0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    scheduler = SCHEDULERS[name](optimizer, model, nn.CrossEntropyLoss())
    held = [group["lr"] for group in optimizer.param_groups]
    train(model, optimizer, scheduler, batches(4))
    assert all(a is group["lr"] for a, group in zip(held, optimizer.param_groups, strict=True))
    last = scheduler.get_last_lr()
    assert all(isinstance(lr, torch.Tensor) for lr in last)
    assert last[0] is not held[0]
    assert float(last[0]) == float(held[0]) < 0.1


@each
def test_add_param_group_after_construction(name):
    model, optimizer, scheduler = setup(name)
    train(model, optimizer, scheduler, batches(2))
    extra = nn.Parameter(torch.zeros(3))
    optimizer.add_param_group({"params": [extra], "lr": 0.03})
    train(model, optimizer, scheduler, batches(2), start=2)
    assert len(scheduler.get_last_lr()) == len(optimizer.param_groups)
    assert 0.0 < optimizer.param_groups[-1]["lr"] <= 0.03


@each
def test_get_last_lr_is_what_the_groups_hold(name):
    model, optimizer, scheduler = setup(name)
    for step, batch in enumerate(batches(5)):
        train(model, optimizer, scheduler, [batch], start=step)
        assert scheduler.get_last_lr() == rates(optimizer)
        assert scheduler.get_lr() == rates(optimizer)  # pure: asking changes nothing


@pytest.mark.parametrize("name", ["homotopy", "adaptive", "per_layer"])
def test_a_loss_given_to_step_is_refused_with_the_way_out(name):
    _, optimizer, scheduler = setup(name)
    optimizer.step()
    with pytest.raises(TypeError, match="CurvatureAdaptiveLR"):
        scheduler.step(torch.tensor(2.345))
    assert scheduler.last_epoch == 0


@each
def test_histories_stay_bounded_and_draw(name):
    model, optimizer, scheduler = setup(name)
    scheduler.history.steps.capacity = 8
    train(model, optimizer, scheduler, batches(40))
    kept = scheduler.history.steps.column("step")
    assert len(kept) <= 8 and kept[0] == 0.0
    assert len(scheduler.plot_lr_history().data) == 3
    assert len(scheduler.plot_curvature_history().data) >= 3


@each
def test_scheduler_never_called_is_said_once(name):
    _, optimizer, scheduler = setup(name)
    optimizer.step()
    scheduler.step()
    optimizer.step()
    with pytest.warns(UserWarning, match="update_curvature"):
        scheduler.step()
    optimizer.step()
    scheduler.step()


@each
def test_the_model_stays_picklable(name):
    model, optimizer, scheduler = setup(name)
    train(model, optimizer, scheduler, batches(2))
    pickle.loads(pickle.dumps(model))
    copy.deepcopy(model)
