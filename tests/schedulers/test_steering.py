"""Which number of a probe becomes the rate."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from homotopy_cli import HomotopyLR
from homotopy_cli.records import Eigenvalue
from homotopy_cli.schedulers.columns import steering_value
from homotopy_cli.schedulers.ramp import FIRST_TRUSTED


def _estimate(top, low):
    return SimpleNamespace(
        lambda_max=Eigenvalue(top, 0.5, True),
        lambda_min=None if low is None else Eigenvalue(low, 2.0, True),
        preconditioned_sharpness=None,
    )


@pytest.mark.parametrize(
    ("top", "low", "upper", "both", "wanted"),
    [
        (3.0, -100.0, False, False, 3.0),
        (3.0, -100.0, True, False, 3.5),
        (3.0, -100.0, True, True, 102.0),
        (3.0, -1.0, True, True, 3.5),
        (3.0, None, True, True, 3.5),
        (-8.0, -2000.0, True, True, 2002.0),
    ],
)
def test_the_larger_end_steers_where_both_count(top, low, upper, both, wanted):
    assert steering_value(_estimate(top, low), "lambda_max", upper=upper, both=both) == wanted


class Saddle(nn.Module):
    """L = (top·x² + low·y²)/2: curvature known in closed form at every step."""

    def __init__(self, top: float, low: float) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.ones(2))
        self.register_buffer("h", torch.tensor([top, low]))

    def forward(self, inputs):
        return 0.5 * (self.h * self.x.square()).sum() + 0.0 * inputs.sum()


def _rates(low: float, steps: int) -> list[float]:
    model = Saddle(1.0, low)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = HomotopyLR(
        optimizer, model, lambda out, _: out, mode="auto", total_steps=400, probe_fraction=1.0
    )
    rates, batch = [], (torch.zeros(4, 1), torch.zeros(4))
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch[0]).backward()
        scheduler.update_curvature(*batch)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_the_first_steps_of_mode_auto_mind_negative_curvature():
    flat, steep = _rates(-0.5, 1), _rates(-50.0, 1)
    assert steep[0] == pytest.approx(flat[0] / 50, rel=1e-3)  # |λ_min| is 50 λ_max


def test_later_ones_follow_the_top_alone():
    """From FIRST_TRUSTED on a curvature that training leaves behind would only hold rates down."""
    rates = _rates(-50.0, FIRST_TRUSTED + 5)
    assert max(rates[FIRST_TRUSTED:]) > 5 * max(rates[:FIRST_TRUSTED])
