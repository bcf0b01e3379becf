"""Are the products what they claim to be? Symmetry, a finite difference, and kinks.

Two products and six gradients in each thorough estimate. A custom backward whose second
derivative is wrong gives smooth, converged, plausible eigenvalues of the wrong matrix, and an
estimate checked against autograd alone cannot see it.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.curvature.rounding import float64_graph
from homotopy_cli.errors import ProblemError
from homotopy_cli.linalg.extreme import EigenPair
from homotopy_cli.linalg.operator import LinearOperator
from homotopy_cli.linalg.vectors import dot, gaussian, norm, unit
from homotopy_cli.records import Checks

PLAINLY_WRONG = 0.05  # share of ‖Hv‖: our choice; rounding and truncation stay far below
NOTICED = 0.01  # difference between two curvatures that is worth a sentence: our choice
_SYMMETRY = 1e4  # units of eps: products of deep float32 networks are off by up to 1e3 of them
_HINT = "check its backward with torch.autograd.gradgradcheck, or use --hvp central_difference"
_EXACT = ("double_backward", "forward_over_reverse")


@dataclass(frozen=True)
class _Difference:
    """(g(θ + hv) - g(θ - hv)) / 2h for a unit vector v, with a bound on its error."""

    product: Tensor  # (n,)
    bound: float  # on ‖product - Hv‖ where g is smooth
    along: float  # on |v'product - v'Hv|
    rounding: float  # the part of both that rounding explains
    step: float  # h


def check_products(
    graph: GradientGraph, operator: LinearOperator, *, generator: torch.Generator
) -> Checks:
    """Check that the products are those of a symmetric matrix, and that it is g's derivative.

    `symmetry_error` is |u'Hv - v'Hu| √n / (‖Hu‖ + ‖Hv‖) for random unit u and v: about the
    asymmetric share of H. `difference_error` is ‖Hv - (g(θ+hv) - g(θ-hv))/2h‖ over the larger
    of both norms; its bound is twice the even part ‖g(θ+hv) + g(θ-hv) - 2g(θ)‖/2h, measured
    from the same gradients, plus rounding. The even part is of one order lower in h than the
    truncation error and holds the same rounding errors, so it bounds both unless the fourth
    derivative is 3/h times the third.

    Args:
        graph: Inspected (see `GradientGraph`).
        operator: The Hessian, or the Gauss-Newton matrix: then only its symmetry is checked.
        generator: Draws u and v.

    Raises:
        ProblemError: The second derivative is plainly wrong: asymmetric by more than
            PLAINLY_WRONG, in float64 too where the problem has that form and else with a custom
            function in the loss; or so far from the difference, with a custom function and no
            kinks.
    """
    n, eps = operator.n, torch.finfo(operator.dtype).eps
    draw = {"generator": generator, "dtype": operator.dtype, "device": operator.device}
    u, v = unit(gaussian(n, **draw)), unit(gaussian(n, **draw))
    assert u is not None and v is not None  # a normal vector is not zero
    hv = operator.matvec(v)
    asymmetry = _asymmetry(n, u, v, operator.matvec(u), hv)
    checks = Checks(
        symmetry_error=asymmetry,
        symmetry_bound=_SYMMETRY * eps,
        kinked_operations=graph.kinked,
        custom_functions=graph.custom,
    )
    if graph.method not in _EXACT:
        return checks
    if asymmetry > max(PLAINLY_WRONG, checks.symmetry_bound):
        exact = float64_graph(graph, "auto")
        persists = bool(graph.custom) or operator.dtype == torch.float64
        if exact is not None and exact.method in _EXACT:
            products = exact.hvp(u.double()), exact.hvp(v.double())
            persists = _asymmetry(n, u, v, *products) > PLAINLY_WRONG
        if persists:
            raise ProblemError(
                f"the second derivative is wrong: u'Hv and v'Hu differ by {asymmetry:.2g} of ‖Hv‖"
                + _whose(graph),
                hint=_HINT,
            )
    if graph.matrix != "hessian":
        return checks
    found = _difference(graph, v, size=norm(hv))
    scale = max(norm(hv), norm(found.product))
    error = norm(hv - found.product) / scale if scale > 0.0 else 0.0
    bound = found.bound / scale if scale > 0.0 else 0.0
    if error > max(PLAINLY_WRONG, bound) and graph.custom and not graph.kinked:
        raise ProblemError(
            f"the second derivative is wrong: Hv is {error:.2g} of its length away from the "
            f"difference of gradients (bound {bound:.1g})" + _whose(graph),
            hint=_HINT,
        )
    return replace(checks, difference_error=error, difference_bound=bound, step=found.step)


def _asymmetry(n: int, u: Tensor, v: Tensor, hu: Tensor, hv: Tensor) -> float:
    """|u'Hv - v'Hu| √n / (‖Hu‖ + ‖Hv‖); n of the whole vectors, of which a rank may hold a part."""
    size = norm(hu) + norm(hv)
    u, v = u.to(hu), v.to(hv)
    return abs(dot(u, hv) - dot(v, hu)) * math.sqrt(n) / size if size > 0.0 else 0.0


def check_kinks(graph: GradientGraph, checks: Checks, top: EigenPair) -> Checks:
    """Add the curvature along the top eigenvector by derivative and by a finite step.

    At kinks (ReLU) the derivative sees one piece of the function and a step sees many: both
    are right, and they may differ by any factor. `kink` is set when they differ by more than
    NOTICED, here or along the random direction; where no operation with kinks is known, only
    when they differ by more than truncation explains. Two gradients.
    """
    if graph.matrix != "hessian":
        return checks
    if graph.method not in _EXACT:
        return replace(checks, kink=bool(graph.kinked))
    found = _difference(graph, top.vector, size=abs(top.value))
    finite = dot(top.vector, found.product)
    noticed = NOTICED * abs(top.value) + top.residual
    kink = abs(finite - top.value) > noticed + (0.0 if graph.kinked else found.along)
    if graph.kinked and checks.difference_error is not None:
        kink |= checks.difference_error > NOTICED + found.rounding / max(abs(top.value), 1e-300)
    return replace(
        checks,
        kink=kink,
        curvature_exact=top.value,
        curvature_finite=finite,
        step=found.step,
    )


def sentences(checks: Checks) -> tuple[str, ...]:
    """The faults that the checks found, in words for the estimate's warnings."""
    said = []
    if checks.symmetry_error > max(PLAINLY_WRONG, checks.symmetry_bound):
        said.append(
            f"float32 does not resolve this Hessian: u'Hv and v'Hu differ by "
            f"{checks.symmetry_error:.2g} of ‖Hv‖ (--dtype float64)"
        )
    elif checks.symmetry_error > checks.symmetry_bound:
        said.append(
            f"products are not symmetric to rounding: u'Hv and v'Hu differ by "
            f"{checks.symmetry_error:.2g} of ‖Hv‖ (bound {checks.symmetry_bound:.1g})"
        )
    causes = ", ".join((*checks.kinked_operations, *checks.custom_functions))
    if checks.custom_functions:
        causes += "; or a wrong second derivative of " + ", ".join(checks.custom_functions)
    if checks.kink and checks.curvature_exact is not None:
        said.append(
            f"along the top eigenvector the derivative gives {checks.curvature_exact:.6g}, "
            f"a finite step of length {checks.step:.2g} {checks.curvature_finite:.6g}: "
            + (f"the loss has kinks or jumps ({causes})" if causes else _UNKNOWN)
            + (_COARSE if (checks.difference_bound or 0.0) >= 1.0 else "")
        )
    elif (
        checks.difference_error is not None
        and checks.difference_bound is not None
        and checks.difference_error > max(checks.difference_bound, 1e-3)
    ):
        said.append(
            f"Hv along a random direction is {checks.difference_error:.2g} of its length away "
            f"from a finite difference of gradients (bound {checks.difference_bound:.1g}): "
            + (f"kinks or jumps ({causes})" if causes else _UNKNOWN)
        )
    return tuple(said)


_COARSE = ", or rounding hides the step (--dtype float64 tells)"
_UNKNOWN = "no operation with kinks was found; detach() or in-loss rounding does this too"


def _difference(graph: GradientGraph, v: Tensor, *, size: float) -> _Difference:
    """A central difference along the unit vector v; `size` is ‖Hv‖."""
    step = graph.steps.central
    above, below = graph.gradients_beside(v, (step, -step))
    even = (above + below - 2.0 * graph.grad) / (2.0 * step)
    eps = torch.finfo(graph.dtype).eps
    moved = norm(graph.problem.flat_params()) * size
    rounding = 4.0 * eps * (norm(graph.grad) + moved) / step + 16.0 * eps * size
    return _Difference(
        product=(above - below) / (2.0 * step),
        bound=2.0 * norm(even) + rounding,
        along=2.0 * abs(dot(v, even)) + rounding,
        rounding=rounding,
        step=step,
    )


def _whose(graph: GradientGraph) -> str:
    return f"; custom autograd functions: {', '.join(graph.custom)}" if graph.custom else ""
