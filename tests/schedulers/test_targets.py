"""How near its edge a network may train, by optimizer, normalisation and mode."""

import pytest
import torch
from torch import nn

from homotopy_cli import HomotopyLR
from homotopy_cli.schedulers.settings import GuardSettings
from homotopy_cli.schedulers.targets import target_of
from homotopy_cli.zoo.quadratic import Quadratic


class LlamaRMSNorm(nn.Module):
    """A normalisation by its name alone."""


def _net(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), *between, nn.ReLU(), nn.Linear(4, 2))


def _sgd(model: nn.Module, momentum: float = 0.9) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)


def _target(model, optimizer, *, signal="sharpness", auto=False, said=None, **settings):
    say = (lambda *event: None) if said is None else (lambda *event: said.append(event))
    return target_of(GuardSettings(**settings), optimizer, model, signal, say, auto=auto)


@pytest.mark.parametrize(
    ("momentum", "auto", "wanted"),
    [(0.9, False, 0.5), (0.9, True, 0.35), (0.0, False, 0.9), (0.0, True, 0.5)],
)
def test_a_deep_network_without_normalisation_is_held_further_off(momentum, auto, wanted):
    model, said = _net(), []
    assert _target(model, _sgd(model, momentum), auto=auto, said=said) == wanted
    assert [event[2] for event in said] == ["TARGET"] * (wanted < 0.9)
    assert all(str(wanted) in event[3] for event in said)


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm1d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4), LlamaRMSNorm()],
    ids=lambda norm: type(norm).__name__,
)
@pytest.mark.parametrize("auto", [False, True])
def test_a_normalised_network_may_train_near_its_edge(norm, auto):
    model = _net(norm)
    assert _target(model, _sgd(model), auto=auto) == 0.9


def test_a_bound_on_weights_is_no_normalisation():
    model = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2)
    )
    assert _target(model, _sgd(model)) == 0.5


@pytest.mark.parametrize(
    "model", [nn.Linear(4, 2), Quadratic(6, condition=10.0)], ids=["linear", "x"]
)
def test_a_model_without_depth_does_not_sharpen(model):
    assert _target(model, _sgd(model)) == 0.9
    assert _target(model, _sgd(model), auto=True) == 0.35  # the step is still the noise's to upset


@pytest.mark.parametrize(("auto", "wanted"), [(False, 0.9), (True, 1.0)])
def test_a_live_metric_has_targets_of_its_own(auto, wanted):
    model = _net()
    adam = torch.optim.AdamW(model.parameters())
    assert _target(model, adam, signal="preconditioned_sharpness", auto=auto) == wanted


def test_what_is_given_holds_and_the_other_laws_have_their_own():
    model = _net()
    assert _target(model, _sgd(model), target=0.7) == 0.7
    assert _target(model, _sgd(model), signal="trust_ratio") == 0.75
    assert _target(model, _sgd(model), signal="kappa") == 0.9


def test_the_scheduler_takes_it_and_says_so():
    model = _net()
    scheduler = HomotopyLR(_sgd(model), model, nn.functional.mse_loss, total_steps=50)
    assert scheduler._guard.ceiling.target == 0.5
    assert "TARGET" in [event.code for event in scheduler.drain_events()]
    auto = HomotopyLR(_sgd(model), model, nn.functional.mse_loss, total_steps=50, mode="auto")
    assert auto._guard.ceiling.target == 0.35
