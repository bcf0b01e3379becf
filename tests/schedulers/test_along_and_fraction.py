"""Signals without Hessian products, and the share of the gradient that is signal."""

import math

import pytest
import torch
from torch import nn

from homotopy_cli import HomotopyLR
from homotopy_cli.curvature.along import measure_along
from homotopy_cli.problems.problem import Problem
from homotopy_cli.schedulers.fraction import LEAST, Alignment


def bowl(eigenvalues):
    """½θ'Aθ at θ = 1, diagonal A: along u = P⁻¹g everything is known."""
    theta = nn.Parameter(torch.ones(len(eigenvalues), dtype=torch.float64))

    class Bowl(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = theta

        def forward(self, x):
            return 0.5 * (self.theta**2 * torch.tensor(eigenvalues, dtype=torch.float64)).sum()

    return Bowl()


@pytest.mark.parametrize("signal", ["secant", "forward"])
@pytest.mark.parametrize("diagonal", [None, [4.0, 1.0, 0.5]])
@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.1])
def test_both_are_the_directional_curvature_of_a_quadratic(signal, diagonal, rate):
    a = torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64)
    p = torch.ones(3, dtype=torch.float64) if diagonal is None else torch.tensor(diagonal).double()
    u = a / p  # g = A·1
    wanted = float((u * a * u).sum() / (u * p * u).sum())
    model = bowl(a.tolist())
    problem = Problem.from_module(model, lambda m, b: m(b), [torch.zeros(1)])
    given = None if diagonal is None else p
    before = model.theta.detach().clone()
    found = measure_along(problem, signal, rate, diagonal=given)
    cost = found.cost.gradient_equivalents
    tolerance = 1e-7 if signal == "secant" else 0.07  # the bracket's width
    assert found.directional_sharpness == pytest.approx(wanted, rel=tolerance)
    assert torch.equal(model.theta, before) and model.theta.grad is None
    assert found.kappa is None and signal in found.kappa_reason
    assert 1.0 < cost < 15.0


def test_a_secant_sees_the_wall_that_the_tangent_does_not():
    """relu(|θ| - 1.5)² is flat at θ = 1; a step to -3 meets the wall."""

    class Wall(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))

        def forward(self, x):
            return (self.theta + 50 * torch.relu(-self.theta - 1.5) ** 2).sum()

    problem = Problem.from_module(Wall(), lambda m, b: m(b), [torch.zeros(1)])
    near = measure_along(problem, "secant", 0.1, diagonal=None)
    far = measure_along(problem, "secant", 4.0, diagonal=None)
    assert near.directional_sharpness == pytest.approx(0.0, abs=1e-9)
    assert far.directional_sharpness == pytest.approx(100 * 1.5 / 4.0, rel=1e-9)


def test_zero_gradient_gives_no_number():
    model = bowl([1.0])
    with torch.no_grad():
        model.theta.zero_()
    problem = Problem.from_module(model, lambda m, b: m(b), [torch.zeros(1)])
    for signal in ("secant", "forward"):
        assert measure_along(problem, signal, 0.1, diagonal=None).directional_sharpness is None


class Scalar(nn.Module):
    def __init__(self, value, function):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([value]))
        self.function = function

    def forward(self, x):
        return self.function(self.theta).sum()


def test_forward_tells_a_loss_that_never_rises_from_one_whose_rise_is_rounding():
    slope = Scalar(1.0, lambda x: x)
    flat = Scalar(1e-6, lambda x: 1000.0 + 0.5 * x**2)  # float32 sees it from 8e-3 on
    found = [
        measure_along(
            Problem.from_module(model, lambda m, b: m(b), [torch.zeros(1)]),
            "forward",
            0.1,
            diagonal=None,
        ).directional_sharpness
        for model in (slope, flat)
    ]
    assert found == [0.0, None]


@pytest.mark.parametrize("noise", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("metric", [False, True])
def test_the_fraction_is_that_of_a_known_noise(noise, metric):
    """Rows g_i = G + noise: c = |G|²/(|G|² + tr Σ/B) in the metric P⁻¹."""
    n, rows, part = 200_000, 32, 4
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(n, generator=generator, dtype=torch.float64)
    each = signal + noise * math.sqrt(rows) * torch.randn(rows, n, generator=generator).double()
    p = torch.linspace(0.5, 2.0, n, dtype=torch.float64) if metric else torch.ones(n).double()
    parameter = nn.Parameter(torch.zeros(n, dtype=torch.float64))
    parameter.grad = 0.01 * each.mean(0)  # clipped or loss-scaled: the length says nothing
    alignment = Alignment([parameter], p if metric else None)
    alignment(each[:part].mean(0))
    size = float((signal**2 / p).sum())
    wanted = size / (size + noise**2 * float((1 / p).sum()))
    assert alignment.signal_fraction(part / rows) == pytest.approx(wanted, rel=0.05, abs=0.01)


def test_the_fraction_knows_what_it_cannot_tell():
    parameter = nn.Parameter(torch.ones(3))
    alignment = Alignment([parameter], None)
    alignment(torch.ones(3))
    assert math.isnan(alignment.signal_fraction(0.5))  # no gradient yet
    parameter.grad = torch.ones(3)
    alignment(torch.ones(3))
    assert math.isnan(alignment.signal_fraction(1.0))  # the whole batch against itself
    assert alignment.signal_fraction(0.5) == 1.0
    alignment(-torch.ones(3))
    assert alignment.signal_fraction(0.5) == LEAST


def regression(rows=64, noise=0.0):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 6, generator=generator)
    y = x @ torch.ones(6, 1) + noise * torch.randn(rows, 1, generator=generator)
    return x, y


@pytest.mark.parametrize("signal", ["secant", "forward"])
def test_they_hold_a_rate_that_is_far_too_high(signal):
    """lr 30 diverges at once; along the step the rate is held under the edge from step 0 on."""
    torch.manual_seed(0)
    model, (x, y) = nn.Linear(6, 1), regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=30.0)
    loss_fn = nn.MSELoss()
    scheduler = HomotopyLR(
        optimizer, model, loss_fn, signal=signal, probe_fraction=1.0, budget=math.inf, floor=1e-4
    )
    first = None
    for _ in range(60):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        first = first or loss.item()
        scheduler.update_curvature(x, y)
        optimizer.step()
        scheduler.step()
    assert scheduler.signal == signal
    assert loss.item() < 0.05 * first
    assert "directional_sharpness" in scheduler.last_probe
    assert "n_hvp" in scheduler.last_probe and scheduler.last_probe["n_hvp"] == 0.0


def test_a_noisy_batch_asks_for_a_lower_ceiling_and_a_resume_knows_it():
    def run(noise, **settings):
        torch.manual_seed(0)
        model, (x, y) = nn.Linear(6, 1), regression(noise=noise)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        scheduler = HomotopyLR(optimizer, model, nn.MSELoss(), budget=math.inf, **settings)
        for _ in range(5):
            optimizer.zero_grad()
            nn.MSELoss()(model(x), y).backward()
            scheduler.update_curvature(x, y)
            optimizer.step()
            scheduler.step()
        return scheduler

    plain, noisy = run(3.0), run(3.0, signal_fraction=True)
    fraction = noisy.last_probe["signal_fraction"]
    assert LEAST <= fraction < 1.0
    assert noisy.ceiling < plain.ceiling
    assert "signal_fraction" not in plain.last_probe
    other = run(0.0, signal_fraction=True)
    other.load_state_dict(noisy.state_dict())
    assert other.ceiling == noisy.ceiling
