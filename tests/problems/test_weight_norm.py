"""Weight normalisation: torch's fused kernel has a wrong second derivative, and is not used."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from homotopy_cli.curvature.exact import full_hessian
from homotopy_cli.problems.problem import Problem


def normalised(old, dim):
    """A layer under either of torch's two weight norms, float64."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 3).double()
    if not old:
        return nn.utils.parametrizations.weight_norm(layer, dim=dim)
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer, dim=dim)


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("old", [False, True])
def test_the_hessian_of_a_weight_normalised_layer_is_that_of_its_formula(old, dim):
    """Oracle: the layer written with sums and a root, and autograd.functional.hessian on that."""
    layer = normalised(old, dim)
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    problem = Problem.from_module(layer, "mse", [(x, y)])
    sizes = [p.numel() for p in problem.params.values()]
    shapes = [p.shape for p in problem.params.values()]

    def loss(theta):
        bias, g, v = (t.view(s) for t, s in zip(theta.split(sizes), shapes, strict=True))
        axes = {0: 1, 1: 0, None: (0, 1)}[dim]
        weight = g * v / (v * v).sum(axes, keepdim=True).sqrt()
        return F.mse_loss(x @ weight.T + bias, y)

    theta = problem.flat_params()
    wanted = torch.autograd.functional.hessian(loss, theta)
    torch.testing.assert_close(full_hessian(problem), wanted, rtol=1e-10, atol=1e-12)


def test_the_kernel_is_back_after_a_probe():
    fused = torch._weight_norm
    problem = Problem.from_module(
        normalised(False, 0), "mse", [(torch.ones(2, 4), torch.ones(2, 3))]
    )
    problem.batch_loss(0)
    assert torch._weight_norm is fused
