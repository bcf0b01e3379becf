"""Find the top eigenvector by cheap products, so that few exact ones certify it.

A forward difference on the cached gradient costs one gradient, an exact product two and more.
Their error limits what they can certify, not what they can find. Never across kinks: there a
finite step sees another matrix.
"""

import torch
from torch import Tensor

from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.linalg.extreme import ExtremeResult, extreme_eigenvalues

_NOISE = 4.0  # residuals below this many times a difference's own error mean nothing


class DifferenceOperator:
    """H by forward differences of the gradient; counted as products of the graph."""

    def __init__(self, graph: GradientGraph) -> None:
        self.graph = graph
        self.n, self.dtype, self.device = graph.n, graph.dtype, graph.device

    def matvec(self, v: Tensor) -> Tensor:
        """Return Hv to first order in the step, shape (n,)."""
        with self.graph.meter.product("difference"):
            return self.graph.difference(self.graph.names, v)


def top_vector(
    graph: GradientGraph, *, generator: torch.Generator, rtol: float, max_matvecs: int
) -> tuple[ExtremeResult | None, str]:
    """Return (the top pair by differences, ""), or (None, why differences are refused).

    Its vector is a start for the exact iteration. That one then sees next to nothing of the other
    end, so what this one saw of it from its random start (`low_seen`) is kept as well.

    Args:
        graph: Inspected for kinks; of the Gauss-Newton matrix none is found, without a word.
        generator: Draws the start vector.
        rtol: As of the exact iteration that follows; never below the differences' own error.
        max_matvecs: Budget of differences, one gradient each.
    """
    if graph.matrix != "hessian":  # a difference of gradients is a product with H
        return None, ""
    if graph.kinked or graph.custom:
        names = ", ".join((*graph.kinked, *graph.custom))
        return None, f"exact products throughout: the loss may have kinks ({names})"
    tolerance = max(rtol, _NOISE * graph.steps.forward_error)
    if tolerance > 0.1:
        return None, (
            f"exact products throughout: a finite step would be off by "
            f"{graph.steps.forward_error:.1g} of ‖Hv‖"
        )
    return extreme_eigenvalues(
        DifferenceOperator(graph),
        generator=generator,
        which="max",
        rtol=tolerance,
        max_matvecs=max_matvecs,
        explicit_residual=False,
    ), ""
