"""How HomotopyLR lives with others: inner and chained schedulers, AMP, accumulation, closures."""

import copy
import inspect
import itertools
import math
import pickle
from dataclasses import fields

import pytest
import torch
from setups import DUMMY, Quadratic, batches, network, quadratic_loss, train
from torch import nn
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    SequentialLR,
    StepLR,
)

from homotopy_cli.problems.criteria import resolve_loss
from homotopy_cli.schedulers.homotopy import BUDGET, HomotopyLR
from homotopy_cli.schedulers.settings import GuardSettings


def quiet(optimizer, model, **settings):
    """A scheduler whose ceiling never bites: what is left is the schedule."""
    return HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), alpha=0.0, **settings)


def plain_rates(make, steps, lr=0.1):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    used = []
    for _ in range(steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return used


@pytest.mark.parametrize(
    "make",
    [lambda o: CosineAnnealingLR(o, 20), lambda o: StepLR(o, 3), lambda o: ExponentialLR(o, 0.9)],
    ids=["cosine", "step", "exponential"],
)
def test_an_inner_torch_scheduler_gives_its_own_rates(make):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = quiet(optimizer, model, inner=make(optimizer))
    used = [row[0] for row in train(model, optimizer, scheduler, batches(12))]
    assert used == plain_rates(make, 12)


def test_the_ceiling_does_not_feed_back_into_an_inner_recursive_scheduler():
    """CosineAnnealingLR computes each rate from the last one in the group: it must see its own."""
    model = Quadratic([100.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inner = CosineAnnealingLR(optimizer, 20)
    scheduler = HomotopyLR(
        optimizer, model, quadratic_loss, inner=inner, target=1.0, scale_decay=False
    )
    expected = plain_rates(lambda o: CosineAnnealingLR(o, 20), 20)
    for step in range(20):
        model(DUMMY).backward()
        scheduler.update_curvature(batch=DUMMY)
        assert scheduler.schedule_lr == pytest.approx(expected[step], rel=1e-9)
        used = optimizer.param_groups[0]["lr"]
        assert used == pytest.approx(min(expected[step], 0.02), rel=1e-3)
        optimizer.step()
        scheduler.step()


def test_chained_with_torch_schedulers_it_multiplies():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ours = quiet(optimizer, model)
    chain = ChainedScheduler([ExponentialLR(optimizer, 0.9), ours, StepLR(optimizer, 4)])
    criterion = nn.CrossEntropyLoss()
    for step, (x, y) in enumerate(batches(9)):
        expected = 0.1 * 0.9**step * 0.1 ** (step // 4)
        criterion(model(x), y).backward()
        ours.update_curvature(x, y)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        chain.step()


@pytest.mark.filterwarnings("ignore:.*epoch parameter.*:UserWarning")  # SequentialLR's own call
def test_after_a_torch_warmup_in_sequential_lr():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ours = quiet(optimizer, model)
    both = SequentialLR(optimizer, [LinearLR(optimizer, 0.1, 1.0, 5), ours], milestones=[5])
    used = []
    for x, y in batches(9):
        nn.functional.cross_entropy(model(x), y).backward()
        ours.update_curvature(x, y)
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    assert used == pytest.approx([0.01, 0.028, 0.046, 0.064, 0.082, 0.1, 0.1, 0.1, 0.1])


def test_a_rate_the_user_sets_becomes_the_schedule():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = quiet(optimizer, model)
    train(model, optimizer, scheduler, batches(2))
    optimizer.param_groups[0]["lr"] = 0.025
    used = train(model, optimizer, scheduler, batches(2), start=2)
    assert [row[0] for row in used] == pytest.approx([0.025, 0.025])


def test_epoch_argument_warns_as_in_torch():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = quiet(optimizer, model, inner=lambda k: 1.0 / (1 + k))
    train(model, optimizer, scheduler, batches(1))
    optimizer.step()
    with pytest.warns(UserWarning, match="epoch"):
        scheduler.step(4)
    assert scheduler.last_epoch == 4
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 5)


def test_under_mode_auto_a_group_added_later_keeps_its_ratio_to_the_first_rates():
    model = network()
    first, late = list(model[0].parameters()), list(model[4].parameters())
    optimizer = torch.optim.AdamW([{"params": first}], lr=2e-3)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), mode="auto", total_steps=40)
    train(model, optimizer, scheduler, batches(2))
    optimizer.add_param_group({"params": late, "lr": 1e-3})
    used = train(model, optimizer, scheduler, batches(2), start=2)
    assert [row[1] / row[0] for row in used] == pytest.approx([0.5, 0.5])


def test_a_probe_inside_autocast_measures_in_full_precision():
    found = []
    for inside in (False, True):
        model = network(dropout=0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss())
        x, y = batches(1)[0]
        nn.functional.cross_entropy(model(x), y).backward()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
            scheduler.update_curvature(x, y)
        found.append(scheduler.last_probe["lambda_max"])
    assert found[0] == found[1]


def test_accumulated_microbatches_get_one_probe_per_optimizer_step():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), budget=math.inf)
    criterion = nn.CrossEntropyLoss()
    for _ in range(3):
        for x, y in batches(4):
            criterion(model(x), y).backward()
            scheduler.update_curvature(x, y)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    assert scheduler.n_probes == 3


def test_a_step_that_grad_scaler_skips_neither_probes_again_nor_releases():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), budget=math.inf)
    train(model, optimizer, scheduler, batches(2))
    limit, probes = scheduler.ceiling, scheduler.n_probes
    x, y = batches(1)[0]
    nn.CrossEntropyLoss()(model(x), y).backward()
    scheduler.update_curvature(x, y)
    for _ in range(3):  # found_inf: the scaler does not call optimizer.step()
        scheduler.step()
        scheduler.update_curvature(x, y)
    assert scheduler.n_probes == probes + 1
    assert scheduler.ceiling <= limit
    assert scheduler.last_epoch == 5


def test_stepped_once_per_epoch_the_ceiling_still_releases_per_optimizer_step():
    model = Quadratic([100.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = HomotopyLR(optimizer, model, quadratic_loss, budget=math.inf, target=1.0)
    used = []
    for step in range(40):
        if step == 1:
            model.eigenvalues.fill_(1.0)
        model(DUMMY).backward()
        scheduler.update_curvature(batch=DUMMY)
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 9:
            scheduler.step()
    assert scheduler.last_epoch == 4
    assert used[-1] > 2.0 * used[0]
    assert max(b / a for a, b in itertools.pairwise(used)) <= 1.05 + 1e-12


def test_a_closure_is_called_as_often_as_without_a_scheduler():
    model = Quadratic([10.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scheduler = HomotopyLR(optimizer, model, quadratic_loss)
    calls = []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        loss = model(DUMMY)
        loss.backward()
        return loss

    for _ in range(3):
        scheduler.update_curvature(batch=DUMMY)
        optimizer.step(closure)
        scheduler.step()
    assert len(calls) == 3


@pytest.mark.parametrize("loss", ["cross_entropy", resolve_loss("cross_entropy"), None])
def test_named_resolved_and_guessed_losses(loss):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = HomotopyLR(optimizer, model, loss)
    x, y = batches(1)[0]
    assert scheduler.update_curvature(batch=(x, y)) is not None
    assert scheduler.last_probe["lambda_max"] > 0.0


def test_pair_and_batch_forms_measure_the_same():
    found = []
    for form in ("pair", "batch"):
        model = network(dropout=0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = batches(1)[0]
        if form == "pair":
            scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), probe_fraction=1.0)
            scheduler.update_curvature(x, y)
        else:

            def loss(net, batch):
                return nn.functional.cross_entropy(net(batch["x"]), batch["y"])

            scheduler = HomotopyLR(optimizer, model, loss, probe_fraction=1.0)
            scheduler.update_curvature(batch={"x": x, "y": y})
        found.append(scheduler.last_probe["lambda_max"])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_alarms_from_the_loop_bring_a_probe_forward():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scheduler = HomotopyLR(
        optimizer, model, nn.CrossEntropyLoss(), budget=math.inf, longest=100, estimation_freq=100
    )
    criterion = nn.CrossEntropyLoss()
    data = batches(60)
    for step, (x, y) in enumerate(data):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        loss = 50.0 if step == 55 else 1.0 + 0.01 * (step % 3)
        scheduler.update_curvature(x, y, loss=loss, grad_norm=1.0)
        optimizer.step()
        scheduler.step()
    alarms = [e for e in scheduler.drain_events() if e.code == "ALARM"]
    assert [e.step for e in alarms] == [55]
    assert alarms[0].message == "loss out of range"


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda o, m: HomotopyLR(o, m, inner=3), TypeError, "inner is a int"),
        (
            lambda o, m: HomotopyLR(o, m, inner=torch.optim.lr_scheduler.ReduceLROnPlateau(o)),
            ValueError,
            "needs a metric",
        ),
        (
            lambda o, m: HomotopyLR(o, m, inner=StepLR(torch.optim.SGD(m.parameters(), lr=0.1), 3)),
            ValueError,
            "another optimizer",
        ),
        (
            lambda o, m: HomotopyLR(o, m, base_lr=1.0, inner=StepLR(o, 3)),
            ValueError,
            "base_lr and an inner LRScheduler",
        ),
        (lambda o, m: HomotopyLR(o), TypeError, "needs the model"),
        (lambda o, m: HomotopyLR("adam", m), TypeError, "str is not an Optimizer"),
    ],
    ids=["int", "plateau", "foreign", "base_lr", "no model", "no optimizer"],
)
def test_what_cannot_work_is_refused(make, error, words):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(error, match=words):
        make(optimizer, model)


def test_update_curvature_wants_exactly_one_batch():
    model = network()
    scheduler = HomotopyLR(torch.optim.SGD(model.parameters(), lr=0.1), model)
    x, y = batches(1)[0]
    for arguments in ({}, {"inputs": x, "targets": y, "batch": (x, y)}):
        with pytest.raises(TypeError, match="takes"):
            scheduler.update_curvature(**arguments)


def test_a_state_of_another_version_is_refused():
    model = network()
    scheduler = quiet(torch.optim.SGD(model.parameters(), lr=0.1), model)
    with pytest.raises(ValueError, match="state version 99, this is 3"):
        scheduler.load_state_dict(scheduler.state_dict() | {"version": 99})


@pytest.mark.parametrize("kind", ["sequential", "chained"])
def test_a_composed_torch_schedule_can_be_the_inner_one(kind):
    """Warmup, then a cosine, as torch writes it: neither of the two has base_lrs of its own."""

    def make(optimizer):
        if kind == "chained":
            return ChainedScheduler(
                [LinearLR(optimizer, 0.1, 1.0, 5), ExponentialLR(optimizer, 0.9)]
            )
        warmup, rest = LinearLR(optimizer, 0.1, 1.0, 5), CosineAnnealingLR(optimizer, 20)
        return SequentialLR(optimizer, [warmup, rest], milestones=[5])

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = quiet(optimizer, model, inner=make(optimizer))
    used = [rate for (rate,) in train(model, optimizer, scheduler, batches(12))]
    assert used == pytest.approx(plain_rates(make, 12))


def test_what_others_wrote_since_our_last_write_is_in_the_checkpoint():
    """ReduceLROnPlateau after validation, then a save: the cut must not be undone by a resume."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = quiet(optimizer, model)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    train(model, optimizer, scheduler, batches(3))
    for loss in (1.0, 2.0, 3.0):
        plateau.step(loss)
    cut = optimizer.param_groups[0]["lr"]
    state = scheduler.state_dict()
    again = torch.optim.SGD(model.parameters(), lr=0.1)
    resumed = quiet(again, model)
    resumed.load_state_dict(state)
    assert cut < 0.05 and again.param_groups[0]["lr"] == cut
    used = train(model, again, resumed, batches(2))
    assert used == [[cut], [cut]]


def test_a_rate_of_zero_by_somebody_else_is_no_end():
    """Freezing a group, and a warmup that starts at 0, as HuggingFace's do."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = quiet(optimizer, model)
    used = []
    for step, batch in enumerate(batches(8)):
        if step in (2, 5):
            optimizer.param_groups[0]["lr"] = 0.0 if step == 2 else 0.01
        used += [rate for (rate,) in train(model, optimizer, scheduler, [batch])]
    assert used == pytest.approx([0.1, 0.1, 0.0, 0.0, 0.0, 0.01, 0.01, 0.01])

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler, used = quiet(optimizer, model), []
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, t / 5))
    for batch in batches(7):
        used += [rate for (rate,) in train(model, optimizer, scheduler, [batch])]
        warmup.step()
    assert used == pytest.approx([0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.1])


def test_an_inner_schedule_may_start_at_zero_and_an_old_one_may_have_ended_there():
    def rise(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, t / 4))

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = quiet(optimizer, model, inner=rise(optimizer))
    used = [rate for (rate,) in train(model, optimizer, scheduler, batches(6))]
    assert used == pytest.approx(plain_rates(rise, 6)) and used[0] == 0.0 < used[1]

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = CosineAnnealingLR(optimizer, 2)
    for _ in range(2):
        optimizer.step()
        before.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)
    scheduler = quiet(optimizer, model)
    used = [rate for (rate,) in train(model, optimizer, scheduler, batches(2))]
    assert used == [0.1, 0.1]


def test_the_alarms_take_tensors_and_keep_no_graph():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss())
    x, y = batches(1)[0]
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    scheduler.update_curvature(x, y, loss=loss, grad_norm=loss.detach())
    values = [alarm.values[0] for alarm in scheduler._guard.alarms.of.values()]
    assert [type(value) for value in values] == [float, float]


def test_an_optimizers_state_may_be_loaded_after_the_scheduler_is_made():
    """Adam's edge at its first steps is far below that of a thousandth."""
    model = Quadratic([100.0])
    old = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(60):
        old.zero_grad()
        model(DUMMY).backward()
        old.step()
    new = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = HomotopyLR(new, model, quadratic_loss)
    new.load_state_dict(old.state_dict())
    model(DUMMY).backward()
    scheduler.update_curvature(batch=DUMMY)
    assert scheduler._guard.ceiling.threshold(0) == pytest.approx(38.0, rel=0.01)


def test_base_lr_goes_with_last_epoch():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = quiet(optimizer, model, base_lr=0.4, inner=lambda k: 0.5**k, last_epoch=1)
    assert scheduler.get_last_lr() == [pytest.approx(0.4 * 0.25)]


@pytest.mark.parametrize("way", [copy.deepcopy, lambda parts: pickle.loads(pickle.dumps(parts))])
def test_a_copy_counts_steps_and_probes_like_the_original(way):
    """torch's optimizers drop their hooks when they are copied."""
    model = network(dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parts = (model, optimizer, HomotopyLR(optimizer, model, nn.CrossEntropyLoss()))
    train(*parts, batches(5))
    ends = []
    for network_, optimizer_, scheduler in (way(parts), parts):
        train(network_, optimizer_, scheduler, batches(20, seed=2))
        guard = scheduler._guard
        ends.append((guard.n_steps, guard.cadence.n_probes, scheduler.get_last_lr()))
    assert ends[0] == ends[1] and ends[0][0] == 25


def test_defaults_that_stand_in_two_signatures_agree():
    given = inspect.signature(HomotopyLR).parameters
    settings = {field.name: field.default for field in fields(GuardSettings)}
    assert settings.pop("budget") == BUDGET["guard"] and given["budget"].default is None
    assert settings.pop("warmup") == 0.25 and given["warmup"].default is None  # auto has its own
    own = {"shortest", "front"}  # of the guard alone
    assert settings.keys() - given.keys() == own
    assert all(given[name].default == settings[name] for name in settings.keys() - own)
