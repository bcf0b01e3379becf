"""The critical learning rate by forward passes, against closed forms and with no trace left."""

import math

import pytest
import torch
from cases import BY_NAME, Quadratic

from homotopy_cli.curvature.critical import critical_lr
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.problems.problem import Problem


def point(problem):
    graph = GradientGraph(problem, method="central_difference")
    return graph.grad, graph.loss


def quadratic(eigenvalues, dtype=torch.float64):
    torch.manual_seed(3)
    model = Quadratic(eigenvalues).to(dtype)
    return Problem.from_module(model, lambda m, batch: m(), [torch.zeros(1)], dtype=dtype)


@pytest.mark.parametrize("eigenvalues", [[4.0, 1.0, 0.1], [250.0, 3.0, 1.0, 0.5]])
@pytest.mark.parametrize("scaled", [False, True])
def test_on_a_quadratic_it_is_twice_slope_over_curvature(eigenvalues, scaled):
    problem = quadratic(eigenvalues)
    grad, loss = point(problem)
    diagonal = torch.linspace(0.5, 8.0, len(eigenvalues), dtype=torch.float64) if scaled else None
    found = critical_lr(problem, grad, loss, diagonal=diagonal)
    u = grad if diagonal is None else grad / diagonal
    exact = 2.0 * (u @ grad) / (u @ (problem.model.a @ u))
    assert found.low <= exact <= found.high
    assert found.high - found.low <= found.low / 16.0 + 1e-12
    assert found.along == ("preconditioned_gradient" if scaled else "gradient")
    assert found.n_forwards == len(found.curve) - 1 <= 40


def test_the_curve_tells_the_losses_it_saw():
    problem = quadratic([4.0, 1.0, 0.1])
    grad, loss = point(problem)
    found = critical_lr(problem, grad, loss)
    theta, a, b = problem.model.theta.detach(), problem.model.a, problem.model.b
    for rate, value in found.curve:
        moved = theta - rate * grad
        assert value == pytest.approx((0.5 * moved @ a @ moved + b @ moved).item(), rel=1e-12)
    assert [rate for rate, _ in found.curve] == sorted(rate for rate, _ in found.curve)


def test_no_gradient_and_no_rise_have_no_critical_rate():
    flat = quadratic([1.0, 2.0])
    zero = torch.zeros(2, dtype=torch.float64)
    assert critical_lr(flat, zero, 1.0).critical is None
    line = Problem.from_closure({"x": torch.ones(3)}, lambda p: p["x"].sum())
    grad, loss = point(line)
    found = critical_lr(line, grad, loss)
    assert found.critical is None and found.high is None and found.low > 1e6


def test_a_rise_that_is_rounding_is_not_a_rate():
    torch.manual_seed(0)
    x = torch.full((4,), 1e-6)
    problem = Problem.from_closure({"x": x}, lambda p: 1.0 + 50.0 * (p["x"] ** 2).sum())
    grad, loss = point(problem)
    assert critical_lr(problem, grad, loss).critical is None


def test_an_overflowing_loss_counts_as_a_rise():
    problem = Problem.from_closure(
        {"x": torch.tensor([1.0])}, lambda p: torch.exp(p["x"] ** 4).sum()
    )
    grad, loss = point(problem)
    found = critical_lr(problem, grad, loss)
    assert found.critical is not None and all(math.isfinite(v) for _, v in found.curve)


@pytest.mark.parametrize("name", ["mlp", "conv bn", "tied gpt"])
def test_it_leaves_no_trace(name):
    problem = BY_NAME[name].problem()
    model = problem.model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    grad, loss = point(problem)
    found = critical_lr(problem, grad, loss)
    assert found.critical > 0.0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())
