"""Float32 estimates state errors that hold against float64, and no larger than need be."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from homotopy_cli.cli.render import overall_table
from homotopy_cli.curvature.api import probe
from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.curvature.kappa import kappa_error, noise_floor
from homotopy_cli.curvature.rounding import draws_numbers
from homotopy_cli.curvature.run import Run
from homotopy_cli.problems.problem import Problem
from homotopy_cli.records import CurvatureEstimate, Eigenvalue, HvpCost

EPS = torch.finfo(torch.float32).eps


def fitted(scale):
    """A linear classifier with margins of `scale`: (model, x, y), float32."""
    torch.manual_seed(0)
    x, w = torch.randn(64, 8), torch.randn(5, 8)
    scores = x @ w.T
    top = scores.topk(2, 1)[0]
    kept = top[:, 0] - top[:, 1] > 1.0
    model = nn.Linear(8, 5)
    with torch.no_grad():
        model.weight.copy_(w * scale)
        model.bias.zero_()
    return model, x[kept], scores.argmax(1)[kept]


def softmax_regression(model, x, y):
    """Closed form in float64: g = Σ (p - e_y) ⊗ [x, 1]/N, H = Σ (diag p - pp') ⊗ [x,1][x,1]'/N."""
    x, w, b = x.double(), model.weight.detach().double(), model.bias.detach().double()
    p = torch.softmax(x @ w.T + b, 1)
    rest = p - F.one_hot(y, 5)
    top = F.one_hot(y, 5).bool()
    rest[top] = -p.masked_fill(top, 0.0).sum(1)  # p_y - 1, without cancellation
    grad_w, grad_b = rest.T @ x / len(x), rest.mean(0)
    wide = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    bend = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    bend[torch.arange(len(y)), y, y] = -rest[top] * p[top]
    h = torch.einsum("nab,ni,nj->aibj", bend, wide, wide).reshape(45, 45) / len(x)
    return torch.cat([grad_w.reshape(-1), grad_b]), h


def batch_normed(model, x, y):
    """Written out, float64: differentiated densely by torch.autograd.functional."""
    lin, norm, head = model[0], model[1], model[3]
    parts = [lin.weight, lin.bias, norm.weight, norm.bias, head.weight, head.bias]
    theta = torch.cat([p.detach().reshape(-1).double() for p in parts])

    def loss(theta):
        w, b, s, t, v, c = (
            q.view(p.shape)
            for q, p in zip(theta.split([p.numel() for p in parts]), parts, strict=True)
        )
        z = x.double() @ w.T + b
        z = (z - z.mean(0)) / (z.var(0, unbiased=False) + norm.eps).sqrt()
        return F.cross_entropy(torch.tanh(s * z + t) @ v.T + c, y)

    grad = torch.autograd.functional.jacobian(loss, theta)
    return grad, torch.autograd.functional.hessian(loss, theta)


def shifted(offset):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    return model, torch.randn(64, 6) + offset, torch.randint(0, 3, (64,))


def assert_errors_hold(found, grad, hessian):
    length, values = grad.norm().item(), torch.linalg.eigvalsh(hessian)
    size = values.abs().max().item()
    assert abs(found.grad_norm - length) <= found.grad_error
    assert abs(found.lambda_max.value - values[-1]) <= found.lambda_max.residual
    assert abs(found.lambda_min.value - values[0]) <= found.lambda_min.residual
    if found.kappa is not None:
        assert abs(found.kappa - size / length**2) <= kappa_error(found)
    for moment, exact in ((found.trace, values.sum()), (found.frobenius_norm, values.norm())):
        shown = 5e-7 * abs(moment.value) if moment.stderr == 0.0 else 4.0 * moment.stderr
        assert abs(moment.value - exact) <= shown + 8 * EPS * values.abs().sum()


@pytest.mark.parametrize("scale", [1, 6, 8, 10, 12, 15, 18])
def test_errors_hold_where_the_softmax_of_a_fitted_classifier_cancels(scale):
    """8 roundings of ‖g‖ were 7000 times too small; the trace, off by a quarter, was exact."""
    model, x, y = fitted(scale)
    found = probe(Problem.from_module(model, "cross_entropy", [(x, y)]))
    grad, hessian = softmax_regression(model, x, y)
    assert_errors_hold(found, grad, _by_parameter(hessian))
    resolved = found.grad_error <= 1e-3 * found.grad_norm
    assert resolved == (scale < 10)
    assert resolved != any("does not resolve the gradient" in w for w in found.warnings)
    assert (found.trace.stderr > 0.0) == (scale > 2)


def _by_parameter(hessian):
    """Rows ordered weight, then bias, as the module has them."""
    index = torch.arange(45).view(5, 9)
    order = torch.cat([index[:, :8].reshape(-1), index[:, 8]])
    return hessian[order][:, order]


@pytest.mark.parametrize("offset", [0.0, 100.0, 1000.0, 10000.0])
def test_errors_hold_where_batch_norm_subtracts_a_large_mean(offset):
    model, x, y = shifted(offset)
    found = probe(Problem.from_module(model, "cross_entropy", [(x, y)], mode="train"))
    assert_errors_hold(found, *batch_normed(model, x, y))


@pytest.mark.parametrize("scale", [12, 15, 18])
def test_layers_state_their_own_errors(scale):
    """Oracle: the closed form."""
    model, x, y = fitted(scale)
    found = probe(Problem.from_module(nn.Sequential(model), "cross_entropy", [(x, y)]))
    grad, hessian = softmax_regression(model, x, y)
    (row,) = found.blocks
    top = torch.linalg.eigvalsh(hessian)[-1]
    assert abs(row.lambda_max - top) <= row.residual
    assert abs(row.grad_norm - grad.norm()) <= row.grad_error
    assert abs(row.trace.value - hessian.trace()) <= 4.0 * row.trace.stderr
    assert row.grad_error == pytest.approx(found.grad_error)


@pytest.mark.parametrize("constant", [0.0, 1e3, 1e6])
def test_a_constant_in_the_loss_changes_no_error(constant):
    """Its rounding is not the gradient's: the floor |L|/‖θ‖ refused κ here."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = torch.randn(32, 5), torch.randint(0, 3, (32,))
    problem = Problem.from_module(
        model, lambda m, b: F.cross_entropy(m(b[0]), b[1]) + constant, [(x, y)]
    )
    found = probe(problem)
    assert found.kappa == pytest.approx(14.4001, rel=1e-5)
    assert kappa_error(found) < 1e-4 * found.kappa and found.warnings == ()


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_a_badly_scaled_tensor_refuses_no_kappa(scale):
    """x·s with W/s is the same function of the other layer's parameters."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.Tanh(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].weight.div_(scale)
    batch = torch.randn(32, 5) * scale, torch.randint(0, 3, (32,))
    found = probe(Problem.from_module(model, "cross_entropy", [batch]))
    assert found.kappa is not None and kappa_error(found) < 1e-3 * found.kappa
    assert found.grad_error < 1e-5 * found.grad_norm


def formula(found, problem):
    """What is stated where float64 has no say."""
    floor = noise_floor(
        eps=EPS,
        loss=found.loss,
        hessian_norm=found.hessian_norm,
        param_norm=problem.flat_params().norm().item(),
        n_params=problem.n_params,
    )
    return max(floor, 8.0 * EPS * found.grad_norm)


class Fixed(nn.Module):
    """No float64: the input is cast back."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x.float())


class Noisy(nn.Module):
    """Normal noise, which torch draws otherwise in float64."""

    def forward(self, x):
        return x + torch.randn_like(x)


@pytest.mark.parametrize("kind", ["noise", "closure", "fixed dtype"])
def test_without_a_float64_form_the_formula_stays(kind):
    torch.manual_seed(0)
    batch = torch.randn(16, 4), torch.randn(16, 3)
    if kind == "closure":
        w = torch.randn(4, 3)
        problem = Problem.from_closure({"w": w}, lambda p: F.mse_loss(batch[0] @ p["w"], batch[1]))
    elif kind == "noise":
        model = nn.Sequential(nn.Linear(4, 8), Noisy(), nn.Linear(8, 3))
        problem = Problem.from_module(model, "mse", [batch])
        assert draws_numbers(problem)
    else:
        problem = Problem.from_module(Fixed(), "mse", [batch])
    found = probe(problem)
    assert found.grad_error == pytest.approx(formula(found, problem), rel=1e-6)


def test_probes_while_training_take_no_float64(monkeypatch):
    monkeypatch.setattr(Problem, "in_float64", None)  # calling it would raise
    model, x, y = fitted(12)
    problem = Problem.from_module(model, "cross_entropy", [(x, y)])
    cheap = CurvatureEstimator(config=EstimatorConfig.cheap(steps=3, cold_steps=3))
    found = cheap.estimate(problem)
    assert found.cost.n_hvp == 3 and found.cost.gradient_equivalents == 7.0
    assert found.grad_error == pytest.approx(formula(found, problem), rel=1e-6)


def test_products_in_float64_are_part_of_the_cost():
    """5 pairs or 6, and 4 for the sums; and the gradient counts."""
    model, x, y = fitted(1)
    counts = []
    for dtype in (torch.float32, torch.float64):
        problem = Problem.from_module(model, "cross_entropy", [(x, y)], dtype=dtype)
        config = EstimatorConfig.thorough(blocks=False)

        with problem.measuring():
            run = Run(config, problem, None, seed=0, warm=None, report=None)
            run.estimate(None, True)
        counts.append((run.graph.meter.n_gradients, len(run.graph.meter._times.get("float64", []))))
    assert counts[0][0] == counts[1][0] + 2
    assert counts[0][1] in (9, 10) and counts[1][1] == 0


def test_the_error_of_kappa_holds_for_large_errors_too():
    """‖H‖ = 2 ± 0.5 and ‖g‖ = 1 ± 0.4: κ lies between 1.5/1.96 and 2.5/0.36."""
    end = Eigenvalue(value=2.0, residual=0.5, converged=True)
    found = CurvatureEstimate(
        n_params=1,
        n_terms=1,
        loss=1.0,
        grad_norm=1.0,
        lambda_max=end,
        lambda_min=end,
        eigenvalues=(end,),
        hessian_norm=2.0,
        kappa=2.0,
        kappa_reason="",
        cost=HvpCost("double_backward", "", 1, 1.0, 1.0),
        grad_error=0.4,
    )
    assert kappa_error(found) == pytest.approx(2.5 / 0.36 - 2.0)
    assert kappa_error(found) >= 2.0 - 1.5 / 1.96
    assert math.isfinite(kappa_error(found))


@pytest.mark.parametrize("scale", [1, 12])
def test_float32_sums_are_exact_only_to_their_digits(scale):
    model, x, y = fitted(scale)
    found = probe(Problem.from_module(model, "cross_entropy", [(x, y)]))
    words = list(overall_table(found).columns[3].cells)
    assert ("n products in float32" in words) == (scale == 12)
    assert ("exact" in words) == (scale == 1)


def test_the_signs_are_reproducible():
    model, x, y = fitted(10)
    problem = Problem.from_module(model, "cross_entropy", [(x, y)])
    first, again = probe(problem), probe(problem)
    assert first.trace == again.trace and first.grad_error == again.grad_error


class Counts(nn.Module):
    """Its loss depends on how often it was evaluated, if nobody puts the buffer back."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x):
        self.n += 1
        return self.layer(x) * self.n


class Averages(Counts):
    """A running average, which moves in training mode."""

    def forward(self, x):
        self.n.mul_(0.9).add_(0.1 * x.detach().mean() + 0.1)
        return self.layer(x - self.n)


def normed():
    layer = nn.utils.spectral_norm(nn.Linear(6, 8))
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("kind", [Counts, Averages, normed])
def test_the_float64_check_starts_from_the_buffers_that_float32_started_from(kind):
    torch.manual_seed(0)
    x, y = torch.randn(32, 6), torch.randint(3, (32,))
    found = probe(Problem.from_module(kind(), "cross_entropy", [(x, y)], mode="train"), None)
    assert math.isfinite(found.kappa)
    assert found.grad_error < 1e-4 * found.grad_norm
    assert not any("float32" in said for said in found.warnings)
