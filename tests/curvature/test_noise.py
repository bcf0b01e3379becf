"""Noise scale and batch sharpness against problems whose answers are written down."""

import math

import pytest
import torch
import torch.nn as nn

from homotopy_cli.curvature.noise import gradient_noise
from homotopy_cli.errors import ProblemError
from homotopy_cli.linalg.vectors import generator
from homotopy_cli.problems.problem import Problem

N = 20
SHIFT = 0.3


class Mean(nn.Module):
    """½‖w - x‖² of one row: gradient w - x, Hessian I."""

    def __init__(self, weights=None):
        super().__init__()
        self.w = nn.Parameter(torch.full((N,), SHIFT, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(N, dtype=torch.float64))

    def forward(self, x):
        return 0.5 * (self.scale * (self.w - x) ** 2).sum(1)


def loss(model, batch):
    return model(batch[0]).mean()


loss.count = lambda batch: len(batch[0])


def problem(sizes, seed=0, sigma=2.0, scale=None):
    draw = generator(seed)
    batches = [(sigma * torch.randn(n, N, generator=draw, dtype=torch.float64),) for n in sizes]
    model = Mean()
    if scale is not None:
        model.scale.copy_(scale)
    return Problem.from_module(model, loss, batches)


@pytest.mark.parametrize("sizes", [[8] * 60, [4, 8, 16] * 20])
def test_closed_form_of_gaussian_rows(sizes):
    """x ~ N(0, σ²I): G = w, ‖G‖² = N·0.09, tr Σ = Nσ², noise scale = σ²/0.09."""
    found = gradient_noise(problem(sizes))
    signal, scatter = N * SHIFT**2, N * 4.0
    assert abs(found.grad_norm_squared.value - signal) < 4 * found.grad_norm_squared.stderr
    assert abs(found.trace_sigma.value - scatter) < 4 * found.trace_sigma.stderr
    assert abs(found.noise_scale.value - scatter / signal) < 4 * found.noise_scale.stderr
    assert found.trace_sigma.stderr < 0.1 * scatter
    assert found.noise_scale.stderr < 0.5 * found.noise_scale.value
    assert found.batch_sharpness.value == pytest.approx(1.0, rel=1e-12)
    assert found.batch_sharpness.stderr < 1e-12
    assert found.n_batches == len(sizes) and found.batch_size == sum(sizes) / len(sizes)


def test_unbiased_over_many_draws():
    """The mean of 300 estimates from three small batches each hits the truth."""
    draws = [gradient_noise(problem([2, 3, 7], seed=i), sharpness=False) for i in range(300)]
    for values, truth in (
        ([d.grad_norm_squared.value for d in draws], N * SHIFT**2),
        ([d.trace_sigma.value for d in draws], N * 4.0),
    ):
        values = torch.tensor(values, dtype=torch.float64)
        assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(len(draws))
    assert draws[0].batch_sharpness is None


def test_stated_errors_are_of_the_size_of_the_real_ones():
    draws = [gradient_noise(problem([8] * 12, seed=i), sharpness=False) for i in range(150)]
    spread = torch.tensor([d.trace_sigma.value for d in draws]).std()
    stated = torch.tensor([d.trace_sigma.stderr for d in draws]).mean()
    assert 0.7 < stated / spread < 1.4


def test_batch_sharpness_is_the_mean_quotient():
    scale = torch.linspace(0.5, 4.0, N, dtype=torch.float64)
    made = problem([4] * 6, scale=scale)
    found = gradient_noise(made).batch_sharpness
    quotients = []
    for (x,) in made.batches:
        g = scale * (SHIFT - x).mean(0)
        quotients.append((scale * g * g).sum() / (g * g).sum())
    quotients = torch.stack(quotients)
    assert found.value == pytest.approx(quotients.mean().item(), rel=1e-12)
    assert found.stderr == pytest.approx((quotients.std() / 6**0.5).item(), rel=1e-9)


def test_formula_of_two_batch_sizes():
    """McCandlish et al., equations A.2 and A.3, with the mean over k batches as the big one."""
    made = problem([5] * 4)
    grads = torch.stack([(SHIFT - x).mean(0) for (x,) in made.batches])
    small, big = grads.square().sum(1).mean(), grads.mean(0).square().sum()
    signal = (20 * big - 5 * small) / (20 - 5)
    scatter = (small - big) / (1 / 5 - 1 / 20)
    found = gradient_noise(made, sharpness=False)
    assert found.grad_norm_squared.value == pytest.approx(signal.item(), rel=1e-10)
    assert found.trace_sigma.value == pytest.approx(scatter.item(), rel=1e-10)


def test_gradient_lost_in_noise_is_said():
    made = [gradient_noise(problem([2] * 3, seed=i, sigma=50.0)) for i in range(10)]
    lost = [m for m in made if m.noise_scale is None]
    assert lost
    assert all("use more batches" in m.noise_scale_reason for m in lost)


def test_two_batches_are_refused():
    with pytest.raises(ProblemError, match="at least 3 batches, got 2") as caught:
        gradient_noise(problem([4, 4]))
    assert "--batch" in caught.value.hint
