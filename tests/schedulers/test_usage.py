"""Mistakes of a loop: what is warned of, what is refused, and what is none."""

import warnings

import pytest
import torch
from setups import batches, network
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from homotopy_cli import HomotopyLR
from homotopy_cli.errors import ProblemError


def made(n_groups=1):
    model = network()
    parts = [model] if n_groups == 1 else [model[:2], model[2:]]
    optimizer = torch.optim.AdamW([{"params": list(part.parameters())} for part in parts], lr=0.01)
    return model, optimizer, HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), total_steps=20)


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step:UserWarning")  # torch's
def test_a_scheduler_stepped_for_every_microbatch_is_not_accused():
    model, optimizer, scheduler = made()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for i, (x, y) in enumerate(batches(12)):
            nn.functional.cross_entropy(model(x), y).backward()
            if i % 4 == 3:
                scheduler.update_curvature(x, y)
                optimizer.step()
                optimizer.zero_grad()
            scheduler.step()
    assert not [w for w in seen if "never called" in str(w.message)]


@pytest.mark.parametrize("per_step", [1, 3])
def test_two_optimizer_steps_without_a_probe_are_told_once(per_step):
    model, optimizer, scheduler = made()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for i, (x, y) in enumerate(batches(9)):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            if i % per_step == per_step - 1:
                scheduler.step()
    (told,) = [w for w in seen if "never called" in str(w.message)]
    assert told.filename == __file__


def test_another_schedulers_state_is_named_as_such():
    _, optimizer, scheduler = made()
    with pytest.raises(ValueError, match="another scheduler's state: it holds T_max"):
        scheduler.load_state_dict(CosineAnnealingLR(optimizer, 60).state_dict())


def test_a_state_of_other_groups_is_refused_and_changes_nothing():
    state = made()[2].state_dict()
    _, _, scheduler = made(n_groups=2)
    before = scheduler.state_dict()
    with pytest.raises(ValueError, match="has 1 parameter groups, the optimizer 2"):
        scheduler.load_state_dict(state)
    assert scheduler.base_lrs == [0.01, 0.01] and scheduler.get_last_lr() == before["base_lrs"]


def test_another_version_is_named():
    _, _, scheduler = made()
    with pytest.raises(ValueError, match="scheduler state version 2, this is 3"):
        scheduler.load_state_dict(scheduler.state_dict() | {"version": 2})


class Keywords(nn.Module):
    """Called model(**batch) in its loop."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 3)

    def forward(self, ids, labels=None):
        return nn.functional.cross_entropy(self.net(ids), labels)


X, Y = batches(1)[0]


@pytest.mark.parametrize(
    ("model", "loss_fn", "inputs", "words"),
    [
        (Keywords(), nn.CrossEntropyLoss(), {"ids": X}, "called with one dict"),
        (Keywords(), nn.CrossEntropyLoss(), (X, Y), "called with one tuple"),
        (Keywords(), nn.CrossEntropyLoss(), X, "called with one Tensor"),
        (
            network(),
            lambda model, batch: model(batch[0]).sum(),
            X,
            "loss_fn(model(inputs), targets",
        ),
    ],
)
def test_a_loop_is_told_in_its_own_words_how_model_and_loss_are_called(
    model, loss_fn, inputs, words
):
    scheduler = HomotopyLR(torch.optim.SGD(model.parameters(), lr=0.1), model, loss_fn)
    with pytest.raises(ProblemError) as caught:
        scheduler.update_curvature(inputs, Y)
    assert words in caught.value.hint and "update_curvature(batch=batch)" in caught.value.hint
    assert "--" not in caught.value.hint
    assert caught.value.__notes__ == [f"hint: {caught.value.hint}"]
