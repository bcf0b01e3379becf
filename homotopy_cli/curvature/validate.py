"""Every estimate beside its exact value from the full Hessian, and inside its own bound?"""

from dataclasses import replace

import torch
from torch import Tensor

from homotopy_cli.curvature.exact import full_hessian, require_small
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.curvature.kappa import ROUNDINGS, kappa_error, norm_error
from homotopy_cli.curvature.rounding import SAME, draws_numbers
from homotopy_cli.errors import HomotopyError
from homotopy_cli.linalg.student import standard_errors
from homotopy_cli.linalg.vectors import norm
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem
from homotopy_cli.records import BlockEstimate, CurvatureEstimate, Eigenvalue, Moment, Validation

_COVERED = 0.999  # of sampled means lie inside their bound: our choice
_DIFFERENCES = 4.0  # standard errors of sums from n products by differences: our choice
ZERO = 1e-10  # share of ‖H‖ below which an exact eigenvalue counts as zero, in float64
ZERO_EPS = 100.0  # the same in units of eps, for float32


def validate(
    problem: Problem,
    estimate: CurvatureEstimate,
    partition: Partition | None = None,
    *,
    preconditioner: Tensor | None = None,
    limit: int = 5000,
) -> list[Validation]:
    """Compare an estimate with the full Hessian's eigenvalues.

    Each eigenvalue is compared with the exact one of its own rank, not with the nearest, so a
    missed eigenvalue shows. The bound of an eigenvalue is its residual; of a sampled mean,
    the standard errors that cover 99.9 % by Student's t (12.9 of 4 probes, 3.5 of 64); κ inherits
    ‖H‖'s and ‖g‖'s. Relative errors are relative to the exact value, or to the matrix's norm
    where the exact value is zero to rounding. The exact values are of float64 where the problem
    has such a form, see `yardstick`; `exact_dtype` tells. Where float64 changes loss or gradient
    by more than SAME, rows for both come first.

    Args:
        problem: The one that was estimated.
        estimate: Its estimate.
        partition: The blocks of the estimate, None to leave them out.
        preconditioner: Diagonal P, shape (n,), where the estimate has used one.
        limit: Refuse above this many parameters.

    Returns:
        One row for each quantity of the estimate.

    Raises:
        ProblemError: More than `limit` parameters.
    """
    require_small(problem, limit)
    ggn = estimate.curvature == "ggn"
    exact = yardstick(problem, estimate)
    hessian = full_hessian(exact, limit=limit, curvature="ggn" if ggn else "hessian")
    hessian = 0.5 * (hessian + hessian.T)
    here = GradientGraph(exact, method="central_difference")
    grad = here.grad.to("cpu", torch.float64)
    inv_sqrt = None
    if preconditioner is not None:
        inv_sqrt = torch.rsqrt(preconditioner.to("cpu", torch.float64))
    scaled = None if inv_sqrt is None else inv_sqrt[:, None] * hessian * inv_sqrt
    zero = max(ZERO, ZERO_EPS * torch.finfo(problem.dtype).eps)
    table = [] if _same(here, estimate) else _disagreement(here, estimate)
    if scaled is not None and estimate.preconditioned_sharpness is not None:
        top = torch.linalg.eigvalsh(scaled)[-1].item()
        table.append(
            _eigenvalue(
                "preconditioned_sharpness", estimate.preconditioned_sharpness, top, abs(top), zero
            )
        )
    if estimate.curvature == "preconditioned":
        if scaled is None:
            raise ValueError("a preconditioned estimate is validated with its preconditioner")
        hessian, grad = scaled, inv_sqrt * grad
    spectrum = torch.linalg.eigvalsh(hessian)
    table += _whole(estimate, spectrum, grad, zero)
    if partition is not None and estimate.blocks:
        rows = {row.name: row for row in estimate.blocks}
        for block in partition.blocks:
            index = _positions(problem, block.params)
            values = torch.linalg.eigvalsh(hessian[index][:, index])
            table += _block(rows[block.name], values, grad[index], zero)
    dtype = str(exact.dtype).removeprefix("torch.")
    return [replace(row, exact_dtype=dtype) for row in table]


def yardstick(problem: Problem, estimate: CurvatureEstimate) -> Problem:
    """The problem in float64; as it is where it has no such form.

    A closure has none, nor a model that fixes a dtype inside. One that draws other random numbers
    in float64 is another function.
    """
    if problem.dtype == torch.float64:
        return problem
    try:
        exact = problem.in_float64()
        here = GradientGraph(exact, method="central_difference")
    except (HomotopyError, RuntimeError, TypeError, ValueError):
        return problem
    return exact if _same(here, estimate) or not draws_numbers(problem) else problem


def _same(exact: GradientGraph, estimate: CurvatureEstimate) -> bool:
    """Whether loss and gradient are those of the estimate."""
    length = norm(exact.grad)
    loss = abs(exact.loss - estimate.loss) <= SAME * max(abs(exact.loss), 1.0)
    return loss and abs(length - estimate.grad_norm) <= SAME * length


def _disagreement(exact: GradientGraph, estimate: CurvatureEstimate) -> list[Validation]:
    """Loss and ‖g‖ beside those of float64, which say otherwise."""
    eps = torch.finfo(getattr(torch, estimate.dtype)).eps
    bound = ROUNDINGS * eps * max(abs(exact.loss), 1.0)
    return [
        _compared("loss", estimate.loss, exact.loss, bound),
        _compared("grad_norm", estimate.grad_norm, norm(exact.grad), estimate.grad_error or 0.0),
    ]


def _whole(
    estimate: CurvatureEstimate, spectrum: Tensor, grad: Tensor, zero: float
) -> list[Validation]:
    """λ_max, λ_min, the eigenvalues by magnitude, norms, trace and κ."""
    table = []
    if estimate.lambda_max is not None and estimate.lambda_min is not None:
        low, high = spectrum[0].item(), spectrum[-1].item()
        size = max(abs(low), abs(high))
        table.append(_eigenvalue("lambda_max", estimate.lambda_max, high, size, zero))
        table.append(_eigenvalue("lambda_min", estimate.lambda_min, low, size, zero))
        ranked = _by_magnitude(spectrum, [e.value for e in estimate.eigenvalues])
        for i, (found, exact) in enumerate(zip(estimate.eigenvalues, ranked, strict=True)):
            table.append(_eigenvalue(f"eigenvalues[{i}]", found, exact, size, zero))
        table.append(_compared("hessian_norm", estimate.hessian_norm, size, norm_error(estimate)))
        table += _kappa("kappa", estimate, size, grad)
    if estimate.frobenius_norm is not None:
        exact = torch.linalg.vector_norm(spectrum).item()
        table.append(_moment("frobenius_norm", estimate.frobenius_norm, exact, spectrum, zero))
    if estimate.trace is not None:
        table.append(_moment("trace", estimate.trace, spectrum.sum().item(), spectrum, zero))
    return table


def _kappa(
    name: str, found: CurvatureEstimate | BlockEstimate, size: float, grad: Tensor
) -> list[Validation]:
    """κ's row, from the exact ‖H‖ and g; none where κ is undefined."""
    length = norm(grad)
    if found.kappa is None or length == 0.0:
        return []
    bound = kappa_error(found) or 0.0
    return [_compared(name, found.kappa, size / length / length, bound)]


def _block(row: BlockEstimate, values: Tensor, grad: Tensor, zero: float) -> list[Validation]:
    """One layer's ends, κ and trace."""
    table = []
    if row.lambda_max is not None and row.lambda_min is not None:
        low, high = values[0].item(), values[-1].item()
        size = max(abs(low), abs(high))
        table.append(
            _compared(f"{row.name}.lambda_max", row.lambda_max, high, row.residual, size, zero)
        )
        table.append(
            _compared(f"{row.name}.lambda_min", row.lambda_min, low, row.residual, size, zero)
        )
        table.append(
            _compared(f"{row.name}.hessian_norm", row.hessian_norm, size, row.residual, size)
        )
        table += _kappa(f"{row.name}.kappa", row, size, grad)
    if row.trace is not None:
        table.append(_moment(f"{row.name}.trace", row.trace, values.sum().item(), values, zero))
    return table


def _eigenvalue(
    quantity: str, found: Eigenvalue, exact: float, scale: float, zero: float
) -> Validation:
    return _compared(quantity, found.value, exact, found.residual, scale, zero)


def _moment(
    quantity: str, found: Moment, exact: float, spectrum: Tensor, zero: float
) -> Validation:
    size = torch.linalg.vector_norm(spectrum, ord=1).item()
    width = (
        standard_errors(_COVERED, max(1, found.n_probes - 1)) if found.n_probes else _DIFFERENCES
    )
    rounding = 1e-12 if zero == ZERO else ROUNDINGS * zero / ZERO_EPS
    bound = width * found.stderr + rounding * size
    return _compared(quantity, found.value, exact, bound, size, zero)


def _compared(
    quantity: str,
    estimate: float,
    exact: float,
    bound: float,
    scale: float = 0.0,
    zero: float = 0.0,
) -> Validation:
    """One row; an exact value below `zero` of the matrix's size `scale` counts as zero."""
    error = abs(estimate - exact)
    unit = abs(exact) if abs(exact) > zero * scale else scale
    return Validation(
        quantity=quantity,
        estimate=estimate,
        exact=exact,
        relative_error=error / unit if unit else 0.0 if error == 0.0 else 1.0,
        bound=bound,
        within_bound=error <= bound,
    )


def _by_magnitude(spectrum: Tensor, estimates: list[float]) -> list[float]:
    """Exact eigenvalues by magnitude; ± pairs of equal magnitude in the estimate's order."""
    ranked = sorted(spectrum.tolist(), key=abs, reverse=True)
    for i in range(min(len(estimates), len(ranked) - 1)):
        a, b = ranked[i], ranked[i + 1]
        tie = abs(abs(a) - abs(b)) <= 1e-6 * abs(a)
        if tie and a * estimates[i] < 0.0 < b * estimates[i]:
            ranked[i], ranked[i + 1] = b, a
    return ranked[: len(estimates)]


def _positions(problem: Problem, names: tuple[str, ...]) -> Tensor:
    """Indices of some parameters in the flat vector."""
    starts, total = {}, 0
    for name, numel in problem.numels.items():
        starts[name] = total
        total += numel
    return torch.cat([torch.arange(starts[n], starts[n] + problem.numels[n]) for n in names])
