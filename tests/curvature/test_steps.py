"""Finite steps: against a closed form whose length scale no rule from ‖θ‖ could know."""

import pytest
import torch
from cases import BY_NAME
from oracles import dense

from homotopy_cli.curvature.api import probe
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.curvature.steps import calibrate
from homotopy_cli.linalg.vectors import generator
from homotopy_cli.problems.problem import Problem


def stiff(scale, dtype, n=200):
    """L = Σ cosh(s x_i)/s², H = diag cosh(s x_i), at |x| about 1/s but ‖θ‖ >> 1 by a spectator."""
    draw = generator(2)
    x = (torch.randn(n, generator=draw, dtype=torch.float64) / scale).to(dtype)
    spectator = torch.full((n,), 50.0, dtype=dtype)

    def loss(p):
        return (torch.cosh(scale * p["x"]) / scale**2).sum() + 1e-3 * p["y"].square().sum()

    return Problem.from_closure({"x": x, "y": spectator}, loss), torch.cosh(scale * x.double())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("method", ["central_difference", "forward_difference"])
def test_difference_products_keep_their_predicted_error(scale, dtype, method):
    problem, diagonal = stiff(scale, dtype)
    graph = GradientGraph(problem, method=method)
    v = graph.grad / graph.grad.norm()
    full = torch.cat([diagonal, torch.full_like(diagonal, 2e-3)])
    wanted = full * v.double()
    error = ((graph.hvp(v).double() - wanted).norm() / wanted.norm()).item()
    steps = graph.steps
    promised = steps.central_error if method[0] == "c" else steps.forward_error
    assert error <= 3.0 * promised
    ceiling = {("c", torch.float64): 1e-6, ("f", torch.float64): 1e-5}
    assert promised < ceiling.get((method[0], dtype), 5e-2)


@pytest.mark.parametrize("name", ["mlp", "conv bn", "tied gpt", "encoder"])
def test_forward_difference_agrees_with_differences_of_the_gradient(name):
    case = BY_NAME[name]
    model, batches = case.parts()
    f, theta = dense.objective(model, case.loss, batches, case.counts)
    hessian = dense.difference_hessian(f, theta)
    top = torch.linalg.eigh(hessian).eigenvectors[:, -1]
    graph = GradientGraph(case.problem(), method="forward_difference")
    found = graph.hvp(top)
    assert (found - hessian @ top).norm() <= 1e-6 * (hessian @ top).norm()
    assert graph.n_hvp == 1.0
    assert not graph.hvp(torch.zeros_like(top)).any()


def test_forward_difference_of_a_block():
    graph = GradientGraph(BY_NAME["mlp"].problem(), method="forward_difference")
    exact = GradientGraph(BY_NAME["mlp"].problem())
    v = torch.randn(graph.problem.numels["2.weight"], dtype=torch.float64)
    wanted = exact.block_hvp(("2.weight",), v)
    assert (graph.block_hvp(("2.weight",), v) - wanted).norm() <= 1e-5 * wanted.norm()


def test_quadratic_takes_the_longest_step():
    """No truncation error at all: only rounding counts, and it falls with the step."""
    matrix = torch.diag(torch.linspace(-1, 3, 20, dtype=torch.float64))
    x = torch.ones(20, dtype=torch.float64)
    steps = calibrate(
        lambda d, hs: [matrix @ (x + h * d) for h in hs], matrix @ x, param_norm=20**0.5
    )
    assert steps.central > 1e-3 * 2.0 ** (-52 / 3)
    assert steps.central_error < 1e-9


def test_zero_gradient_and_zero_hessian_still_have_a_step():
    zero = torch.zeros(5, dtype=torch.float64)
    steps = calibrate(lambda d, hs: [zero for _ in hs], zero, param_norm=0.0)
    assert steps.central > 0.0 and steps.forward > 0.0
    flat = calibrate(lambda d, hs: [h * d for h in hs], zero, param_norm=0.0)
    assert flat.central > 0.0 and flat.central_error < 1e-3


def test_estimate_by_central_differences_in_float32_meets_its_tolerance():
    """The fallback of a float32 network: λ_max to 1e-3 of the float64 Hessian's."""
    case = BY_NAME["tied gpt"]
    model, batches = case.parts()
    f, theta = dense.objective(model, case.loss, batches, case.counts)
    top = torch.linalg.eigvalsh(dense.difference_hessian(f, theta))[-1].item()
    found = probe(case.problem(torch.float32), hvp="central_difference")
    assert found.lambda_max.value == pytest.approx(top, rel=1e-3)
