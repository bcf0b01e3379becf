"""A gradient whose norm is not finite: clipping's share is then 0 or NaN, and training goes on."""

import math

import pytest
import torch
from torch import nn

from homotopy_cli import HomotopyLR


def _parts(scale=1.0, optimizer_class=torch.optim.AdamW, **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 3))
    optimizer = optimizer_class(model.parameters(), lr=0.01)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), **settings)
    return model, optimizer, scheduler, torch.amp.GradScaler("cpu", init_scale=scale)


@pytest.mark.filterwarnings("ignore:Detected call of")  # torch's own, of a first step skipped
@pytest.mark.parametrize("of_float", [False, True])
@pytest.mark.parametrize("signal", ["auto", "trust_ratio"])
def test_a_scaler_that_overflows_lowers_its_scale_as_without_a_scheduler(of_float, signal):
    model, optimizer, scheduler, scaler = _parts(2.0**20, signal=signal)
    x, y = torch.randn(16, 8), torch.randint(3, (16,))
    coefficients = []
    for _ in range(25):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        coefficients.append(min(1, 1.0 / (norm.item() if of_float else norm)))
        scheduler.update_curvature(x, y, clip_coef=coefficients[-1])
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
    assert coefficients[0] == 0.0
    assert scaler.get_scale() < 2.0**20
    assert scheduler.last_probe
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("coefficient", [0.0, math.nan])
def test_no_probe_is_taken_of_a_step_that_clipping_has_emptied(coefficient):
    model, _, scheduler, _ = _parts()
    x, y = torch.randn(16, 8), torch.randint(3, (16,))
    nn.functional.cross_entropy(model(x), y).backward()
    assert scheduler.update_curvature(x, y, clip_coef=coefficient) is None
    assert "GRADIENT_NONFINITE" in [event.code for event in scheduler.events]


@pytest.mark.parametrize("coefficient", [-0.5, 1.5, math.inf])
def test_what_is_no_share_is_refused(coefficient):
    model, _, scheduler, _ = _parts()
    x, y = torch.randn(16, 8), torch.randint(3, (16,))
    nn.functional.cross_entropy(model(x), y).backward()
    with pytest.raises(ValueError, match=r"clip_coef is .*: it must be in \(0, 1\]"):
        scheduler.update_curvature(x, y, clip_coef=coefficient)


def test_a_coefficient_of_tensors_leaves_numbers_in_the_log():
    model, _, scheduler, _ = _parts()
    x, y = torch.randn(16, 8), torch.randint(3, (16,))
    nn.functional.cross_entropy(model(x), y).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    scheduler.update_curvature(x, y, clip_coef=min(1, 0.01 / norm))
    assert type(scheduler.last_probe["edge_ratio"]) is float
