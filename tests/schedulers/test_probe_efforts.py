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
