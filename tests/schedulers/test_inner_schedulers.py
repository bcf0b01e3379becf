"""torch's own schedulers under the ceiling: split groups, warmups that are no LambdaLR."""

import pytest
import torch
from setups import batches, network, train
from torch import nn
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)

from homotopy_cli import HomotopyLR, PerLayerHomotopyLR


def warmup_by_lambda(optimizer):
    slow, fast = (lambda t: min(1.0, t / 5)), (lambda t: min(1.0, t / 3))
    return LambdaLR(optimizer, [slow, fast][: len(optimizer.param_groups)])


def sequential(optimizer):
    first, then = warmup_by_lambda(optimizer), CosineAnnealingLR(optimizer, 20)
    return SequentialLR(optimizer, [first, then], milestones=[5])


INNER = {
    "lambda": warmup_by_lambda,
    "cosine": lambda o: CosineAnnealingLR(o, 20),
    "multistep": lambda o: MultiStepLR(o, [4]),
    "onecycle": lambda o: OneCycleLR(o, 0.1, total_steps=20),
    "three_phases": lambda o: OneCycleLR(o, 0.1, total_steps=20, three_phase=True),
    "cyclic": lambda o: CyclicLR(o, 0.01, 0.1, step_size_up=4),
    "sequential": sequential,
    "chained": lambda o: ChainedScheduler([LinearLR(o, 0.1, 1.0, 5), ExponentialLR(o, 0.9)]),
}


def rates_by_parameter(kind, make, n_groups):
    model = network(dropout=0.0)
    layers = [list(model[0].parameters()), list(model[1:].parameters())]
    groups = [{"params": p, "lr": r} for p, r in zip(layers, (0.1, 0.02), strict=True)]
    groups = groups if n_groups == 2 else [{"params": list(model.parameters())}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    inner = make(optimizer)
    more = {"power": 0.0} if kind is PerLayerHomotopyLR else {}
    scheduler = kind(optimizer, model, nn.CrossEntropyLoss(), inner=inner, alpha=0.0, **more)
    used = train(model, optimizer, scheduler, batches(12))
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    return [
        [rate for rate, size in zip(row, sizes, strict=True) for _ in range(size)] for row in used
    ]


@pytest.mark.filterwarnings("ignore:.*epoch parameter.*:UserWarning")  # SequentialLR's own call
@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("n_groups", [1, 2])
def test_an_inner_scheduler_made_before_the_split_gives_every_layer_its_groups_rate(name, n_groups):
    split = rates_by_parameter(PerLayerHomotopyLR, INNER[name], n_groups)
    assert split == rates_by_parameter(HomotopyLR, INNER[name], n_groups)
    assert len({row[0] for row in split}) > 1


@pytest.mark.parametrize("name", ["lambda", "onecycle", "cyclic"])
def test_the_split_inner_scheduler_resumes(name):
    def make():
        model = network(dropout=0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        inner = INNER[name](optimizer)
        return (
            model,
            optimizer,
            PerLayerHomotopyLR(optimizer, model, nn.CrossEntropyLoss(), inner=inner),
        )

    whole, first, second = make(), make(), make()
    data = batches(12)
    expected = train(*whole, data)
    used = train(*first, data[:5])
    for new, old in zip(second, first, strict=True):
        new.load_state_dict(old.state_dict())
    assert used + train(*second, data[5:], start=5) == expected


@pytest.mark.parametrize(
    ("name", "rises"),
    [("onecycle", True), ("cyclic", True), ("lambda", True), ("cosine", False)],
)
def test_a_schedule_that_rises_is_known_as_one(name, rises):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    inner = INNER[name](optimizer)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), inner=inner)
    assert scheduler._guard.ceiling.gentle == (not rises)


def test_a_one_cycle_inside_another_scheduler_is_known_too():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    cycle = CyclicLR(optimizer, 0.01, 0.1, step_size_up=4)
    inner = ChainedScheduler([cycle])
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), inner=inner)
    assert not scheduler._guard.ceiling.gentle
