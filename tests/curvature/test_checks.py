"""A wrong second derivative is found, kinks are shown, and sound problems pass."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from cases import BY_NAME, CASES

from homotopy_cli.curvature.api import probe
from homotopy_cli.curvature.checks import check_products, sentences
from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.curvature.operators import HessianOperator
from homotopy_cli.errors import ProblemError
from homotopy_cli.linalg.operator import DenseOperator
from homotopy_cli.linalg.vectors import generator
from homotopy_cli.problems.problem import Problem
from homotopy_cli.records import Checks


class CubeGrad(torch.autograd.Function):
    """3x² · grad, whose own backward forgets the factor two in 6x: symmetric, and wrong."""

    @staticmethod
    def forward(ctx, x, grad):
        ctx.save_for_backward(x, grad)
        return 3 * x * x * grad

    @staticmethod
    def backward(ctx, out):
        x, grad = ctx.saved_tensors
        return 3 * x * grad * out, 3 * x * x * out


class Cube(torch.autograd.Function):
    """x³ with a right first and a wrong second derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return CubeGrad.apply(ctx.saved_tensors[0], grad)


class Skew(torch.autograd.Function):
    """½‖x‖², whose gradient x is differentiated as if it were a shift of x: not symmetric."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 0.5 * (x * x).sum()

    @staticmethod
    def backward(ctx, grad):
        return Shifted.apply(ctx.saved_tensors[0]) * grad


class Shifted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.roll(1)


def of(function, n=30, dtype=torch.float64):
    draw = generator(3)
    x = torch.randn(n, generator=draw, dtype=torch.float64).to(dtype)
    return Problem.from_closure({"x": x}, lambda p: function(p["x"]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_wrong_but_symmetric_second_derivative_is_refused(dtype):
    with pytest.raises(ProblemError, match=r"difference of gradients.*functions: Cube") as caught:
        probe(of(lambda x: Cube.apply(x).sum(), dtype=dtype))
    assert "gradgradcheck" in caught.value.hint and "central_difference" in caught.value.hint


def test_asymmetric_second_derivative_is_refused():
    with pytest.raises(ProblemError, match=r"u'Hv and v'Hu differ by .* functions: Skew"):
        probe(of(Skew.apply))


class Doubting(nn.Module):
    """½‖Wx‖² with Skew's second derivative: a custom function in a model that float64 can run."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(4, 3), function

    def forward(self, x):
        return self.function(self.layer.weight) + self.layer(x).sum()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_persists_in_float64_is_no_rounding(dtype):
    batch = torch.randn(5, 4), torch.randn(5)
    model = Doubting(lambda w: Skew.apply(w.reshape(-1)))
    problem = Problem.from_module(model, lambda m, b: m(b[0]), [batch], dtype=dtype)
    with pytest.raises(ProblemError, match=r"u'Hv and v'Hu differ by .* functions: Skew"):
        probe(problem)


def test_a_wrong_kernel_of_torch_is_found_in_float32_too():
    """Fused weight normalisation holds ‖v‖ constant, see test_weight_norm.py; by its own name it
    is taken as it is, and is no custom function.
    """
    fused = torch._weight_norm_interface
    draw = generator(2)
    x, y = torch.randn(6, 4, generator=draw), torch.randn(6, 3, generator=draw)

    def loss(model, batch):
        w = fused(model.weight, model.bias[:, None], 0)[0]
        return F.mse_loss(batch[0] @ w.T, batch[1])

    with pytest.raises(ProblemError, match=r"u'Hv and v'Hu differ by [0-9.]+ of ‖Hv‖(\n|$)"):
        probe(Problem.from_module(nn.Linear(4, 3), loss, [(x, y)]))


def saturated(scale):
    """A linear classifier whose loss is 1e-9: p - 1 cancels in float32."""
    draw = generator(0)
    x = torch.randn(64, 8, generator=draw)
    w = torch.randn(5, 8, generator=draw)
    top = (x @ w.T).topk(2, 1)
    kept = top.values[:, 0] - top.values[:, 1] > 1.0
    model = nn.Linear(8, 5)
    with torch.no_grad():
        model.weight.copy_(w * scale)
        model.bias.zero_()
    return model, x[kept], top.indices[kept, 0]


@pytest.mark.parametrize("scale", [16, 18, 20, 22])
def test_rounding_alone_accuses_no_function(scale):
    """Stock layers in float32: told, with the way out, which then gives no such sentence."""
    model, x, y = saturated(scale)
    found = probe(Problem.from_module(model, "cross_entropy", [(x, y)]))
    assert found.checks.symmetry_error > 0.05
    assert any("float32 does not resolve this Hessian" in w for w in found.warnings)
    assert any("--dtype float64" in w for w in found.warnings)
    exact = probe(Problem.from_module(model, "cross_entropy", [(x, y)], dtype=torch.float64))
    assert exact.checks.symmetry_error < 1e-6
    assert not any("resolve" in w for w in exact.warnings)


def test_the_hint_works():
    """By differences the Hessian of Σ x³ is diag(6x)."""
    problem = of(lambda x: Cube.apply(x).sum())
    found = probe(problem, hvp="central_difference")
    wanted = 6 * problem.flat_params()
    assert found.lambda_max.value == pytest.approx(wanted.max().item(), rel=1e-6)
    assert found.lambda_min.value == pytest.approx(wanted.min().item(), rel=1e-6)
    assert found.checks.difference_error is None and found.checks.symmetry_error < 1e-6


def test_checks_can_be_left_out_and_are_not_made_while_training():
    problem = of(Skew.apply)
    assert probe(problem, checks=False).checks is None
    cheap = CurvatureEstimator(config=EstimatorConfig.cheap(steps=3, cold_steps=3))
    estimate = cheap.estimate(problem)
    assert estimate.checks is None and estimate.cost.n_hvp == 3.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sound_problems_pass_inside_their_bounds(case, dtype):
    checks = probe(case.problem(dtype)).checks
    assert checks.symmetry_error <= checks.symmetry_bound
    assert checks.difference_error <= checks.difference_bound + 1e-6
    assert not checks.kink
    assert checks.difference_bound < 0.05
    assert sentences(checks) == ()


def relu_net(rows=256):
    draw = generator(1)
    net = nn.Sequential(nn.Linear(10, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU())
    net.append(nn.Linear(48, 4))
    for p in net.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=draw)
    x = torch.randn(rows, 10, generator=draw)
    return net, (x, torch.randint(4, (rows,), generator=draw))


def test_kinks_show_both_numbers_side_by_side():
    net, batch = relu_net()
    problem = Problem.from_module(net, "cross_entropy", [batch])
    estimate = probe(problem, top_k=1)
    checks = estimate.checks
    assert checks.kink and checks.kinked_operations == ("Relu",) and checks.custom_functions == ()
    assert checks.curvature_exact == estimate.eigenvalues[0].value
    assert abs(checks.curvature_finite / checks.curvature_exact - 1) > 0.02
    words = next(w for w in estimate.warnings if "finite step" in w)
    assert f"{checks.curvature_exact:.6g}" in words and f"{checks.curvature_finite:.6g}" in words
    assert "kinks" in words and "Relu" in words


def test_smooth_twin_of_a_kinked_net_agrees():
    net, batch = relu_net()
    net[1], net[3] = nn.GELU(), nn.GELU()
    checks = probe(Problem.from_module(net, "cross_entropy", [batch]), top_k=1).checks
    assert not checks.kink and checks.kinked_operations == ()
    assert checks.curvature_finite == pytest.approx(checks.curvature_exact, rel=2e-2)


def test_finite_curvature_of_a_cubic_is_its_closed_form():
    """f = Σ x³: a central difference of g = 3x² has no truncation error at all."""
    problem = of(lambda x: (x**3).sum())
    estimate = probe(problem)
    wanted = max((6 * problem.flat_params()).tolist(), key=abs)
    assert estimate.checks.curvature_exact == pytest.approx(wanted, rel=1e-9)
    assert estimate.checks.curvature_finite == pytest.approx(wanted, rel=1e-8)


def test_detached_term_is_said_but_not_refused():
    """x·sg(x): autograd says H = 0, the gradient x moves as if it were 1."""
    problem = of(lambda x: (x * x.detach()).sum() + 0.1 * (x**4).sum())
    estimate = probe(problem)
    assert estimate.checks.difference_error > 0.05
    assert any("detach()" in words for words in estimate.warnings)


def test_asymmetry_above_rounding_is_said():
    checks = Checks(symmetry_error=0.01, symmetry_bound=1e-3)
    assert sentences(checks) == (
        "products are not symmetric to rounding: u'Hv and v'Hu differ by 0.01 of ‖Hv‖ "
        "(bound 0.001)",
    )


def test_symmetry_error_is_the_asymmetric_share():
    """For A = S + δK, ‖S‖_F = ‖K‖_F, the mean over draws is near δ."""
    draw = generator(0)
    a = torch.randn(200, 200, generator=draw, dtype=torch.float64)
    s, k = a + a.T, a - a.T
    matrix = s / s.norm() + 0.01 * k / k.norm()
    graph = GradientGraph(BY_NAME["mlp"].problem(), method="central_difference")
    errors = [
        check_products(graph, DenseOperator(matrix), generator=generator(i)).symmetry_error
        for i in range(200)
    ]
    assert 0.005 < sum(errors) / len(errors) < 0.015


def test_weights_are_untouched_by_the_checks():
    model, batches = BY_NAME["conv bn"].parts()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    problem = Problem.from_module(model, F.cross_entropy, batches)
    graph = GradientGraph(problem, inspect=True)
    check_products(graph, HessianOperator(graph), generator=generator(0))
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())
    assert graph.n_hvp == 2.0
