"""A GradScaler whose unscale_ comes after update_curvature, or not at all."""

import warnings

import pytest
import torch
from setups import batches, network, train
from torch import nn

from homotopy_cli import HomotopyLR
from homotopy_cli.schedulers.adam import HomotopyAdam

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
}


def run(kind, scale, n=12, **settings):
    """The standard AMP loop, by hand: backward, update_curvature, then what scaler.step does."""
    model = network(dropout=0.0)
    optimizer = OPTIMIZERS[kind](model.parameters())
    scheduler = HomotopyLR(
        optimizer, model, nn.CrossEntropyLoss(), burst=n, budget=9.0, warmup=0.0, **settings
    )
    used, told = [], []
    for x, y in batches(n):
        optimizer.zero_grad()
        (scale * nn.functional.cross_entropy(model(x), y)).backward()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scheduler.update_curvature(x, y)
        told += [str(w.message) for w in caught]
        used.append(scheduler.get_last_lr()[0])
        for parameter in model.parameters():
            parameter.grad /= scale
        optimizer.step()
        scheduler.step()
    return scheduler, used, told


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("signal", ["preconditioned_sharpness", "directional"])
def test_a_scaled_gradient_does_not_count_in_the_metric(kind, signal):
    right, wanted, _ = run(kind, 1.0, signal=signal)
    scheduler, used, told = run(kind, 65536.0, signal=signal)
    assert used[0] == pytest.approx(0.1 * 1e-2)  # no state yet: not measured, so at the floor
    name = "directional_sharpness" if signal == "directional" else signal
    assert scheduler.last_probe[name] == pytest.approx(right.last_probe[name], rel=1.0)
    assert scheduler.last_probe[name] > 0.5 * right.last_probe[name]
    assert max(used[1:]) < 3.0 * max(wanted)
    assert len(told) == 1 and "scaler.unscale_(optimizer) before update_curvature" in told[0]
    events = [e for e in scheduler.events if e.level == "warning"]
    assert [(e.step, e.code) for e in events] == [(0, "GRADIENT_SCALED"), (0, "PROBE_FAILED")]
    assert "has taken no step" in events[1].message


@pytest.mark.parametrize("scale", [1.0, 32.0])
def test_what_batches_can_explain_is_not_said(scale):
    scheduler, _, told = run("adam", scale)
    assert not told and not [e for e in scheduler.events if e.level == "warning"]


def test_a_resumed_run_remembers_it():
    scheduler, _, _ = run("adam", 65536.0)
    model = network(dropout=0.0)
    again = HomotopyLR(torch.optim.Adam(model.parameters(), lr=0.1), model, nn.CrossEntropyLoss())
    again.load_state_dict(scheduler.state_dict())
    assert not again._guard._metric.counts_gradient


def test_it_counts_again_once_it_is_unscaled():
    model = network(dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), burst=9, budget=9.0)
    scheduler._guard._metric.counts_gradient = False
    train(model, optimizer, scheduler, batches(1))  # no state yet: a failed probe, at the floor
    train(model, optimizer, scheduler, batches(2), start=1)
    assert scheduler._guard._metric.counts_gradient and scheduler.n_failed_probes == 1


def test_sgd_has_no_metric_that_could_be_wrong():
    model = network(dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss())
    x, y = batches(1)[0]
    (65536.0 * nn.functional.cross_entropy(model(x), y)).backward()
    assert scheduler.update_curvature(x, y) is not None
    assert not [e for e in scheduler.events if e.level == "warning"]


def test_homotopy_adam_sees_it_too():
    model = network(dropout=0.0)
    optimizer = HomotopyAdam(model.parameters(), lr=0.1, model=model, loss_fn=nn.CrossEntropyLoss())
    x, y = batches(1)[0]
    (65536.0 * nn.functional.cross_entropy(model(x), y)).backward()
    with pytest.warns(UserWarning, match="6.,... times as long"):
        optimizer.step(inputs=x, targets=y)


def test_one_row_with_all_of_the_gradient_is_no_loss_scale():
    """A slice without that row has a gradient a thousand times shorter; Adam's state knows it."""
    torch.manual_seed(0)
    model = nn.Linear(6, 1, bias=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    x, y = 1e-3 * torch.randn(32, 6), torch.zeros(32, 1)
    x[5] = 100.0
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    scheduler = HomotopyLR(optimizer, model, nn.MSELoss())
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), y).backward()
    found = scheduler.update_curvature(x, y)
    assert model.weight.grad.norm() > 1e3 * found.grad_norm
    assert scheduler._guard._metric.counts_gradient
    assert not [e for e in scheduler.events if e.code == "GRADIENT_SCALED"]
