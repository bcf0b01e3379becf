"""The one-number interface: estimate(inputs, targets) -> κ = ‖H‖/‖g‖² of one batch."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.curvature.kappa import kappa
from homotopy_cli.curvature.operators import HessianOperator
from homotopy_cli.linalg.extreme import extreme_eigenvalues
from homotopy_cli.linalg.hutchinson import squared_frobenius_norm
from homotopy_cli.linalg.power_iteration import power_iteration
from homotopy_cli.linalg.vectors import generator, norm
from homotopy_cli.problems.problem import Problem

METHODS = ("lanczos", "power", "hutchinson")
_N_PROBES = 10  # random vectors of "hutchinson"; our choice


def curvature_ratio(
    model: nn.Module | None,
    loss_fn: Callable[[Any, Any], Tensor] | None,
    inputs: Any,
    targets: Any,
    method: str,
    seed: int,
) -> float:
    """Return ‖H‖/‖g‖² on one batch, 1/loss; inf where the gradient is zero.

    Args:
        model: Measured in the mode it is in; nothing of it changes.
        loss_fn: loss_fn(model(inputs), targets) -> scalar.
        inputs: Given to the model.
        targets: Given to the loss.
        method: "hutchinson" takes ‖H‖_F from random products, "power" and "lanczos" ‖H‖₂.
        seed: Of the random vectors.
    """
    if model is None or loss_fn is None:
        raise TypeError(
            "estimate(inputs, targets) needs CurvatureEstimator(model, loss_fn); "
            "estimate(problem) needs a Problem"
        )

    def loss(module: nn.Module, batch: tuple[Any, Any]) -> Tensor:
        return loss_fn(module(batch[0]), batch[1])

    problem = Problem.from_module(
        model, loss, [(inputs, targets)], mode="train" if model.training else "eval"
    )
    with problem.measuring():
        graph = GradientGraph(problem)
        hessian, draws = HessianOperator(graph), generator(seed)
        if method == "hutchinson":
            square = squared_frobenius_norm(hessian, generator=draws, n_probes=_N_PROBES)
            size = math.sqrt(square.value)
        elif method == "power":
            size = abs(power_iteration(hessian, generator=draws, rtol=1e-2).pairs[0].value)
        else:
            found = extreme_eigenvalues(
                hessian,
                generator=draws,
                which="magnitude",
                max_matvecs=60,
                explicit_residual=False,
            )
            size = abs(found.pairs[0].value)
    value, _ = kappa(size, norm(graph.grad))
    return math.inf if value is None else value
