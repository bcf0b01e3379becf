"""Laws that hold for every problem, checked on random ones."""

import math
from itertools import pairwise

import pytest
import torch
from cases import BY_NAME, CASES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homotopy_cli.curvature.api import probe
from homotopy_cli.curvature.exact import full_hessian
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.linalg.extreme import extreme_eigenvalues
from homotopy_cli.linalg.operator import DenseOperator
from homotopy_cli.linalg.vectors import generator
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem

many = settings(
    max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
values = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))


@many
@given(
    spectrum=st.lists(values, min_size=1, max_size=40),
    copies=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    k=st.integers(1, 6),
    budget=st.integers(1, 60),
    rtol=st.sampled_from([1e-1, 1e-3, 1e-8]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_every_value_has_an_eigenvalue_within_its_residual(
    spectrum, copies, seed, k, budget, rtol, dtype
):
    """Degenerate spectra, float32, tiny budgets: the bound holds, converged or not."""
    spectrum = torch.tensor(spectrum * copies, dtype=torch.float64)
    n = len(spectrum)
    q = torch.linalg.qr(torch.randn(n, n, generator=generator(seed), dtype=torch.float64)).Q
    matrix = ((q * spectrum) @ q.T).to(dtype)
    exact = torch.linalg.eigvalsh(0.5 * (matrix + matrix.T).double())
    found = extreme_eigenvalues(
        DenseOperator(matrix),
        generator=generator(seed + 1),
        k=k,
        rtol=rtol,
        max_matvecs=budget,
        multiplicity=budget > 30,
    )
    for pair in found.pairs:
        assert (exact - pair.value).abs().min() <= pair.residual
    if budget >= n and rtol == 1e-8:
        assert len(found.pairs) >= min(k, n)
        assert all(pair.converged for pair in found.pairs)
        assert abs(found.largest.value - exact[-1]) <= found.largest.residual
        assert abs(found.smallest.value - exact[0]) <= found.smallest.residual


def random_problem(seed, widths, rows, scale):
    draw = generator(seed)

    def tensor(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    params = {}
    for i, (a, b) in enumerate(pairwise(widths)):
        params[f"{i}.w"] = scale * tensor(b, a)
        params[f"{i}.b"] = scale * tensor(b)
    x, y = tensor(rows, widths[0]), tensor(rows, widths[-1])

    def closure(p):
        h = x
        for i in range(len(widths) - 1):
            h = h @ p[f"{i}.w"].T + p[f"{i}.b"]
            h = torch.tanh(h) if i < len(widths) - 2 else h
        return ((h - y) ** 2).mean()

    return Problem.from_closure(params, closure)


@settings(many, max_examples=150)
@given(
    seed=st.integers(0, 10_000),
    widths=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    rows=st.integers(1, 12),
    scale=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
)
def test_estimates_of_random_networks_lie_inside_their_bounds(seed, widths, rows, scale):
    problem = random_problem(seed, widths, rows, scale)
    h = full_hessian(problem)
    exact = torch.linalg.eigvalsh(0.5 * (h + h.T))
    found = probe(problem, Partition.by_parameter(problem))
    assert found.converged
    assert abs(found.lambda_max.value - exact[-1]) <= found.lambda_max.residual
    assert abs(found.lambda_min.value - exact[0]) <= found.lambda_min.residual
    ranked = sorted(exact.abs().tolist(), reverse=True)
    for e, magnitude in zip(found.eigenvalues, ranked, strict=False):
        assert abs(abs(e.value) - magnitude) <= e.residual
    for block in found.blocks:
        if block.hessian_norm is not None:
            assert block.hessian_norm <= found.hessian_norm + block.residual + 1e-12


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_product_is_symmetric_and_linear(case):
    graph = GradientGraph(case.problem())
    u, v = torch.randn(2, graph.n, dtype=torch.float64)
    hu, hv = graph.hvp(u), graph.hvp(v)
    scale = hu.norm() * v.norm() + 1e-300
    assert abs(u @ hv - v @ hu) <= 1e-13 * scale
    torch.testing.assert_close(
        graph.hvp(2.0 * u - 3.0 * v), 2.0 * hu - 3.0 * hv, rtol=1e-11, atol=1e-13
    )


@pytest.mark.parametrize("factor", [0.5, 2.0, 1e-6])
@pytest.mark.parametrize("name", ["mlp", "tied gpt"])
def test_kappa_scales_as_one_over_loss(name, factor):
    case = BY_NAME[name]
    model, batches = case.parts()

    def scaled(m, batch):
        return factor * case.loss(m, batch)

    plain = probe(case.problem())
    found = probe(Problem.from_module(model, scaled, batches))
    assert found.kappa == pytest.approx(plain.kappa / factor, rel=1e-9)
    assert found.hessian_norm == pytest.approx(plain.hessian_norm * factor, rel=1e-9)
    assert found.trace.value == pytest.approx(plain.trace.value * factor, rel=1e-9)


@pytest.mark.parametrize("c", [0.5, 3.0])
def test_stretching_the_parameters_leaves_kappa(c):
    """φ = cθ: H and g² both scale by 1/c², so κ stays; λ does not."""
    w = torch.tensor([0.7, -1.2, 0.4], dtype=torch.float64)

    def f(theta):
        return (theta.sin() * theta.roll(1)).sum() + theta.pow(4).sum()

    plain = probe(Problem.from_closure({"w": w}, lambda p: f(p["w"])))
    found = probe(Problem.from_closure({"w": c * w}, lambda p: f(p["w"] / c)))
    assert found.kappa == pytest.approx(plain.kappa, rel=1e-9)
    assert found.hessian_norm == pytest.approx(plain.hessian_norm / c**2, rel=1e-9)


@pytest.mark.parametrize("name", ["mlp", "encoder", "tied gpt", "conv bn"])
def test_blocks_interlace_and_their_parts_add_up(name):
    problem = BY_NAME[name].problem()
    found = probe(problem, Partition.by_parameter(problem))
    for block in found.blocks:
        assert found.lambda_min.value - 1e-12 <= block.lambda_min
        assert block.lambda_max <= found.lambda_max.value + 1e-12
        assert block.hessian_norm <= found.hessian_norm + 1e-12
    assert math.fsum(b.trace.value for b in found.blocks) == pytest.approx(found.trace.value)
    assert math.fsum(b.grad_norm**2 for b in found.blocks) == pytest.approx(found.grad_norm**2)
    assert found.hessian_norm <= found.frobenius_norm.value * (1 + 1e-12)


@pytest.mark.parametrize("name", ["conv bn", "encoder", "idle expert"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_probe_leaves_no_trace(name, mode):
    case = BY_NAME[name]
    model, batches = case.parts()
    model.train()
    next(model.children()).eval()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    flags = [m.training for m in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    probe(Problem.from_module(model, case.loss, batches, mode=mode), density=True)
    assert torch.equal(torch.get_rng_state(), rng)
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())
