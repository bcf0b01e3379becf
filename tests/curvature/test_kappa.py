"""κ and the cases where it means nothing."""

import pytest
import torch
import torch.nn.functional as F

from homotopy_cli.curvature.api import probe
from homotopy_cli.curvature.kappa import kappa, noise_floor
from homotopy_cli.problems.problem import Problem


def test_quotient():
    assert kappa(3.0, 0.5) == (12.0, "")
    assert kappa(0.0, 0.5) == (0.0, "")


def test_undefined_in_words():
    assert kappa(3.0, 0.0) == (None, "undefined: the gradient is exactly zero")
    assert kappa(None, 1.0)[1].startswith("not measured")
    value, reason = kappa(2e-52, 1.5e-51, noise_floor=1e-17)
    assert value is None and "rounding level" in reason and "1.5e-51" in reason
    value, reason = kappa(1e10, 1e-160)
    assert value is None and "overflows" in reason


def test_floor_scales_with_loss_and_curvature():
    common = {"eps": 1e-16, "param_norm": 10.0, "n_params": 100}
    assert noise_floor(loss=5.0, hessian_norm=0.0, **common) == pytest.approx(8 * 5e-17)
    assert noise_floor(loss=0.0, hessian_norm=3.0, **common) == pytest.approx(8 * 3e-16)


def test_gradient_at_rounding_level_of_the_loss_is_undefined():
    """A saturated softmax: log(p + 1e-12) with p underflowed, as a real checkpoint shows."""

    def closure(p):
        return -torch.log(torch.softmax(p["w"] * 60.0, 0)[0] + 1e-12)

    w = torch.tensor([-2.0, 1.0], dtype=torch.float64)
    found = probe(Problem.from_closure({"w": w}, closure))
    assert 0.0 < found.grad_norm < 1e-60
    assert found.kappa is None and "rounding level" in found.kappa_reason
    assert found.predicted_decrease is None


def test_near_minimum_of_a_regression_is_undefined_but_a_little_off_is_not():
    x = torch.randn(20, 3, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    w = torch.linalg.lstsq(x, y).solution

    def closure(p):
        return F.mse_loss(x @ p["w"], y)

    assert probe(Problem.from_closure({"w": w}, closure)).kappa is None
    found = probe(Problem.from_closure({"w": w + 1e-8}, closure))
    assert found.kappa > 0 and found.kappa_reason == ""


def test_predicted_decrease_is_half_over_kappa():
    found = probe(Problem.from_closure({"w": torch.ones(2)}, lambda p: (p["w"] ** 2).sum()))
    assert found.kappa == pytest.approx(2.0 / 8.0)
    assert found.predicted_decrease == pytest.approx(2.0)
