"""Power iteration: one vector of memory, the largest eigenvalue by magnitude."""

import torch

from homotopy_cli.errors import NonFiniteError
from homotopy_cli.linalg.extreme import EigenPair, ExtremeResult
from homotopy_cli.linalg.lanczos import ROUNDING
from homotopy_cli.linalg.operator import LinearOperator
from homotopy_cli.linalg.vectors import dot, gaussian, norm, unit


def power_iteration(
    operator: LinearOperator,
    *,
    generator: torch.Generator,
    max_matvecs: int = 50,
    rtol: float = 1e-3,
) -> ExtremeResult:
    """Estimate the eigenvalue of largest magnitude of a symmetric operator A, shape (n, n).

    |value| estimates ‖A‖₂. The sign is kept: for an indefinite Hessian `value` may be
    negative, and then it is not the sharpness λ_max. Stops when ‖Av - λv‖ <= rtol·|λ|, ‖v‖ = 1;
    the residual bounds the distance from λ to *some* eigenvalue, not to the largest. Opposite
    ends of nearly equal magnitude mix for very long (ratio 0.97: 100 products give two
    digits); Lanczos does not suffer from that, so it is the default everywhere.

    Args:
        operator: The same matrix at every call: fixed batches, fixed dropout mask.
        generator: Draws v₀ ~ N(0, I).
        max_matvecs: Budget. Cost is one product per iteration.
        rtol: Dimensionless. 1e-3 is our choice.

    Returns:
        One pair; it never raises for slow convergence.

    Raises:
        NonFiniteError: A product returned NaN or inf.

    Source: Golub & Van Loan, Matrix Computations, 4th ed., §8.2; bound: Parlett (1998), Thm 4.5.1.
    """
    if max_matvecs < 1:
        raise ValueError(f"max_matvecs must be at least 1, got {max_matvecs}")
    eps = torch.finfo(operator.dtype).eps
    v = unit(
        gaussian(operator.n, generator=generator, dtype=operator.dtype, device=operator.device)
    )
    for iteration in range(1, max_matvecs + 1):
        product = operator.matvec(v)
        value, length = dot(v, product), norm(product)
        if not length < float("inf"):
            raise NonFiniteError(
                f"matrix-vector product {iteration} holds NaN or infinity",
                hint="check the loss and the weights for non-finite or overflowing values",
            )
        residual = norm(torch.sub(product, v, alpha=value)) + ROUNDING * eps * length
        converged = residual <= max(rtol, 2 * ROUNDING * eps) * abs(value)
        if converged or length == 0.0 or iteration == max_matvecs:
            pair = EigenPair(value, v, residual, converged or length == 0.0)
            return ExtremeResult(pairs=[pair], n_matvecs=iteration)
        v = product / length
    raise AssertionError("unreachable: the last iteration returns")
