"""The critical learning rate: how far one step may go before this batch's loss rises.

Forward passes only, so it works where no second derivative does. On a quadratic the critical
rate along u is 2 u'g/u'Hu, at most c/λ_max; on a network it also sees what lies beyond the
quadratic. It is one batch's: the rate at which training on small batches destabilises is lower.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from homotopy_cli.curvature.differences import loss_along
from homotopy_cli.linalg.vectors import dot
from homotopy_cli.problems.problem import Problem
from homotopy_cli.records import LrRange

FIRST = 1e-3  # first trial rate, times 1/the predicted change of loss: our choice
GROWTH = 2.0  # of trial rates until the loss rises
ROUNDINGS = 32.0  # changes of the loss below this many eps are rounding: our choice
FURTHEST = 80  # doublings either way: 24 decades


def critical_lr(
    problem: Problem,
    gradient: Tensor,
    loss: float,
    *,
    diagonal: Tensor | None = None,
    resolution: float = 1.0 / 16.0,
) -> LrRange:
    """Find the smallest η with L(θ - ηu) > L(θ), u = g or P⁻¹g, by doubling and bisection.

    The weights are never written to. Costs about 10 to 20 forward passes. The rise found is the
    first one that doubling meets: a loss that falls again beyond it is not followed.

    Args:
        problem: Where to evaluate.
        gradient: g, shape (n,).
        loss: L(θ).
        diagonal: P > 0, shape (n,), of an adaptive optimizer; None steps along g.
        resolution: Width of the final bracket, relative to its lower end.

    Returns:
        LrRange; `critical` is None where g is zero, no tried rate raised the loss, or only
        rounding did.

    Source: critical sharpness λ_c = 2/η_c, Kalra et al. 2026 (arXiv:2601.16979).
    """
    u = gradient if diagonal is None else gradient / diagonal
    slope = dot(gradient, u)  # -dL/dη at η = 0
    along = "gradient" if diagonal is None else "preconditioned_gradient"
    if not slope > 0.0:
        return LrRange(along, None, None, None, ((0.0, loss),), 0)
    seen = {0.0: loss}
    eps = torch.finfo(gradient.dtype).eps

    def rises(rate: float) -> bool:
        seen[rate] = loss_along(problem, u, -rate)
        return seen[rate] > loss

    with problem.measuring():
        low, high = _bracket(rises, FIRST * max(abs(loss), 1e-12) / slope)
        while low is not None and high is not None and high - low > resolution * low:
            middle = 0.5 * (low + high)
            low, high = (low, middle) if rises(middle) else (middle, high)
    curve = tuple(sorted((rate, value) for rate, value in seen.items() if math.isfinite(value)))
    resolved = high is not None and slope * high > ROUNDINGS * eps * abs(loss)
    critical = 0.5 * (low + high) if resolved and low is not None and high is not None else None
    return LrRange(along, critical, low, high, curve, len(seen) - 1)


def _bracket(rises: Callable[[float], bool], rate: float) -> tuple[float | None, float | None]:
    """Return (largest rate seen not to raise the loss, smallest seen to); None where none was."""
    if rises(rate):
        for _ in range(FURTHEST):
            if not rises(rate / GROWTH):
                return rate / GROWTH, rate
            rate /= GROWTH
        return None, rate
    for _ in range(FURTHEST):
        if rises(rate * GROWTH):
            return rate, rate * GROWTH
        rate *= GROWTH
    return rate, None
