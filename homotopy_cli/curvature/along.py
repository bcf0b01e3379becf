"""Curvature along the step itself, without a second derivative: signals `secant` and `forward`.

Both look along u = P⁻¹g, the way the optimizer goes, and both give λ_u = u'Hu/u'Pu with the same
edge as any λ, by ordinary passes only; so they work where no second derivative does (fused
attention, compiled and checkpointed modules), and across kinks they see what a step sees.

    secant     g at θ and at θ - ηu: one gradient more. The mean curvature over a step of the
               length that is really taken.
    forward    loss at θ - ηu for several η: the critical rate η_c at which it is back where it
               was. λ_u = 2/η_c: exact on a quadratic.
"""

import math
from collections.abc import Callable

from torch import Tensor

from homotopy_cli.curvature.critical import critical_lr
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.linalg.vectors import dot, norm
from homotopy_cli.problems.problem import Problem
from homotopy_cli.records import CurvatureEstimate, HvpCost

SIGNALS = ("secant", "forward")
VISIBLE = 1e-3  # share of the loss that the shortest secant step shall change: our choice
FORWARD_SHARE = 0.35  # of a gradient's cost, that a forward pass has: 1/3 in FLOPs


def measure_along(
    problem: Problem,
    signal: str,
    rate: float,
    *,
    diagonal: Tensor | None,
    on_gradient: Callable[[Tensor], None] | None = None,
) -> CurvatureEstimate:
    """λ_u along u = P⁻¹g, at 2 gradients of this problem (secant) or about 3 (forward).

    Args:
        problem: Where to measure; left without a trace.
        signal: "secant" or "forward".
        rate: η, the length of the coming step in units of u; secant takes a longer one where the
            loss would change by less than rounding shows.
        diagonal: P > 0, shape (n,); None for I.
        on_gradient: Called with g, shape (n,).

    Returns:
        An estimate that holds the directional sharpness and no eigenvalue. The sharpness is None
        where g is 0, and where what raised the loss was rounding.
    """
    with problem.measuring():
        graph = GradientGraph(problem, method="forward_difference")
        if on_gradient is not None:
            on_gradient(graph.grad)
        u = graph.grad if diagonal is None else graph.grad / diagonal
        slope = dot(graph.grad, u)  # = u'Pu
        value, cost = None, 1.0
        if slope > 0.0 and signal == "secant":
            step = max(rate, VISIBLE * max(abs(graph.loss), 1e-12) / slope)
            (beyond,) = graph.gradients_beside(u, (-step,))
            value, cost = dot(u, graph.grad - beyond) / (step * slope), 2.0
    if slope > 0.0 and signal == "forward":
        found = critical_lr(problem, graph.grad, graph.loss, diagonal=diagonal, resolution=0.125)
        cost += FORWARD_SHARE * found.n_forwards
        if found.critical is not None:
            value = 2.0 / found.critical
        elif found.high is None:
            value = 0.0  # no rate raised the loss: there is no edge
    finite = value is not None and math.isfinite(value)
    return CurvatureEstimate(
        n_params=graph.n,
        n_terms=problem.n_terms,
        loss=graph.loss,
        grad_norm=norm(graph.grad),
        lambda_max=None,
        lambda_min=None,
        eigenvalues=(),
        hessian_norm=None,
        kappa=None,
        kappa_reason=f"not measured: signal {signal} takes no Hessian product",
        cost=HvpCost(signal, "", 0, cost, 0.0),
        directional_sharpness=value if finite else None,
        mode=problem.mode,
    )
