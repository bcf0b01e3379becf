"""Every estimate beside its exact value from the full Hessian, and inside its own bound?"""

import torch
from torch import Tensor

from homotopy_cli.curvature.exact import full_hessian
from homotopy_cli.linalg.student import standard_errors
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
    ‖H‖'s. Relative errors are relative to the exact value, or to
    the matrix's norm where the exact value is zero to rounding.

    Args:
        problem: The one that was estimated.
        estimate: Its estimate.
        partition: The blocks of the estimate, None to leave them out.
        preconditioner: Diagonal P, shape (n,), where the estimate has used one.
        limit: Refuse above this many parameters.

    Raises:
        ProblemError: More than `limit` parameters.
    """
    ggn = estimate.curvature == "ggn"
    hessian = full_hessian(problem, limit=limit, curvature="ggn" if ggn else "hessian")
    hessian = 0.5 * (hessian + hessian.T)
    inv_sqrt = None
    if preconditioner is not None:
        inv_sqrt = torch.rsqrt(preconditioner.to("cpu", torch.float64))
    scaled = None if inv_sqrt is None else inv_sqrt[:, None] * hessian * inv_sqrt
    zero = max(ZERO, ZERO_EPS * torch.finfo(problem.dtype).eps)
    table: list[Validation] = []
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
        hessian = scaled
    spectrum = torch.linalg.eigvalsh(hessian)
    table += _whole(estimate, spectrum, zero)
    if partition is not None and estimate.blocks:
        rows = {row.name: row for row in estimate.blocks}
        for block in partition.blocks:
            index = _positions(problem, block.params)
            values = torch.linalg.eigvalsh(hessian[index][:, index])
            table += _block(rows[block.name], values, zero)
    return table


def _whole(estimate: CurvatureEstimate, spectrum: Tensor, zero: float) -> list[Validation]:
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
        bound = max(estimate.lambda_max.residual, estimate.lambda_min.residual)
        table.append(_compared("hessian_norm", estimate.hessian_norm, size, bound))
        if estimate.kappa is not None:
            scale = estimate.kappa / estimate.hessian_norm if estimate.hessian_norm else 0.0
            table.append(_compared("kappa", estimate.kappa, size * scale, bound * scale))
    if estimate.frobenius_norm is not None:
        exact = torch.linalg.vector_norm(spectrum).item()
        table.append(_moment("frobenius_norm", estimate.frobenius_norm, exact, spectrum, zero))
    if estimate.trace is not None:
        table.append(_moment("trace", estimate.trace, spectrum.sum().item(), spectrum, zero))
    return table


def _block(row: BlockEstimate, values: Tensor, zero: float) -> list[Validation]:
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
    bound = width * found.stderr + max(1e-12, zero / ZERO_EPS) * size
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
