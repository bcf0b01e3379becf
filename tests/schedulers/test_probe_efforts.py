"""What a probe does by where the run is: the plan, and a short run that is never left blind."""

import pytest
import torch

from homotopy_cli import HomotopyLR
from homotopy_cli.schedulers.effort import LEAST_STEPS, Effort, efforts
from homotopy_cli.schedulers.settings import GuardSettings

STATE = {
    "signal": "preconditioned_sharpness",
    "cold": False,
    "early": False,
    "stale": False,
    "scaled": True,
    "kappa_steers": False,
    "n_probes": 5,
    "left": 50.0,
}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, [Effort(0.125, 3, 1)]),
        ({"n_probes": 8}, [Effort(0.125, 3, 2)]),  # κ's turn
        ({"early": True, "n_probes": 4}, [Effort(0.0625, 4, 2)]),
        ({"early": True, "n_probes": 4, "left": 9.0}, [Effort(0.0625, 4, 1)]),  # the run is short
        ({"cold": True, "n_probes": 0}, [Effort(0.0625, 5, 2)]),
        ({"kappa_steers": True}, [Effort(0.125, 3, 2)]),
        ({"scaled": False, "n_probes": 8}, [Effort(0.125, 3, 1)]),  # H itself steers: one matrix
        ({"stale": True}, [Effort(0.125, 3, 1), Effort(0.125, 2, 1)]),
        (
            {"stale": True, "n_probes": 8},
            [Effort(0.125, 3, 2), Effort(0.125, 3, 1), Effort(0.125, 2, 1)],
        ),
        ({"signal": "secant", "stale": True}, [Effort(0.125, 2, 0)]),
    ],
)
def test_the_plan(change, wanted):
    assert efforts(GuardSettings(), **{**STATE, **change}) == wanted


def test_efforts_fall_in_cost_and_end_with_the_least():
    found = efforts(GuardSettings(lanczos_steps=6), **{**STATE, "stale": True, "n_probes": 8})
    costs = [effort.predicted(64) for effort in found]
    assert costs == sorted(costs, reverse=True) and len(set(costs)) == len(costs)
    assert found[-1].steps == LEAST_STEPS


def test_a_short_run_sees_the_curvature_fall_after_its_start():
    """H falls a hundredfold at step 30 of 200: with 5 % for probes the ceiling must notice."""
    torch.manual_seed(0)
    x = torch.randn(64, 3)

    class Bowl(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(3))

        def forward(self, rows):
            return (rows * self.w).square().sum(1)

    model, scale = Bowl(), 100.0
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def loss_of(module, batch):
        return scale * module(batch).mean()

    scheduler = HomotopyLR(optimizer, model, loss_of, base_lr=1.0, total_steps=200, budget=0.05)
    rates = []
    for step in range(200):
        scale = 100.0 if step < 30 else 1.0
        optimizer.zero_grad()
        loss_of(model, x).backward()
        scheduler.update_curvature(x)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates[:30]) < 0.02  # 0.9 of 2/λ, λ = 200·E[x²]
    assert max(rates[150:]) > 0.2


def test_one_outlier_does_not_hold_a_run_whose_budget_is_spent():
    """H is a thousandfold for two steps: the ceiling attacks, and must look again to let go."""
    torch.manual_seed(0)
    x = torch.randn(64, 3)
    model = torch.nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scale = 1.0

    def loss_of(module, batch):
        return scale * module(batch).square().mean()

    scheduler = HomotopyLR(
        optimizer, model, loss_of, base_lr=0.1, total_steps=150, budget=1e-6, release=1.3
    )
    rates, probed = [], []
    for step in range(150):
        scale = 1000.0 if step in (16, 17) else 1.0
        optimizer.zero_grad()
        loss_of(model, x).backward()
        if scheduler.update_curvature(x) is not None:
            probed.append(step)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[15] == 0.1 and rates[17] < 2e-3
    assert rates[149] == 0.1
    late = [step for step in probed if step > 17]
    assert late and all(b - a > 20 for a, b in zip([17, *late], late, strict=False))
    assert len(late) <= 3  # and none once the schedule is free again
