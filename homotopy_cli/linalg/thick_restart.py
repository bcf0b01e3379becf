"""Lanczos that never holds more than a given number of vectors.

When the basis is full it is replaced by its best Ritz vectors Y and the next Lanczos vector:
AY = YΘ + q bᵀ, so the iteration goes on as if nothing had happened, with an arrowhead in place
of the tridiagonal matrix. Costs a few more products than an unlimited basis, and no vector
beyond `max_basis` + 3.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from homotopy_cli.errors import NonFiniteError
from homotopy_cli.linalg.extreme import (
    END_FLOOR,
    PATIENCE,
    SAFETY,
    Explicit,
    ExtremeResult,
    Patience,
    Progress,
    Tolerance,
    Which,
    confirmed,
    select,
)
from homotopy_cli.linalg.lanczos import ROUNDING
from homotopy_cli.linalg.operator import LinearOperator
from homotopy_cli.linalg.vectors import gaussian, norm, part_length, project, unit

_COLUMNS = 2**20  # entries rotated at a time, so that a restart needs no second basis


def restarted_eigenvalues(
    operator: LinearOperator,
    *,
    generator: torch.Generator,
    max_basis: int,
    k: int = 1,
    which: Which = "both",
    rtol: float = 1e-3,
    max_matvecs: int = 300,
    start: Tensor | None = None,
    explicit_residual: Explicit = True,
    expired: Callable[[], bool] | None = None,
    progress: Progress | None = None,
    end_floor: float = END_FLOOR,
    patience: int = PATIENCE,
) -> ExtremeResult:
    """Estimate extreme eigenvalues as `extreme_eigenvalues` does, in bounded memory.

    Args:
        operator: A, shape (n, n), symmetric.
        generator: Draws the start vector and fresh ones after a breakdown.
        max_basis: Most vectors (n,) held at once, at least k + 4; k + 10 loses little.
        k, which, rtol, max_matvecs, start, explicit_residual, expired, progress, end_floor,
            patience: As there. Missed copies of degenerate eigenvalues are not searched for.

    Source: Wu & Simon, Thick-restart Lanczos (2000), with full reorthogonalisation.
    """
    n, eps = operator.n, torch.finfo(operator.dtype).eps
    wanted = k + (1 if which == "both" else 0)
    if max_basis < wanted + 3 and max_basis < n:
        raise ValueError(f"max_basis must be at least {wanted + 3}, got {max_basis}")
    size = min(max_basis, n)
    tolerance = Tolerance(rtol, eps, end_floor, patience)
    basis = torch.empty((size, part_length(n)), dtype=operator.dtype, device=operator.device)
    t = torch.zeros((size, size), dtype=torch.float64)
    q = None if start is None else unit(start.to(operator.dtype))
    if random_start := q is None:
        q = _fresh(basis[:0], generator, n)
    m, done, scale, beta, low = 0, 0, 0.0, 0.0, float("inf")
    waiting, last = Patience(tolerance), None
    while True:
        basis[m] = q
        w = operator.matvec(q)
        done += 1
        if progress is not None:
            progress(done, max_matvecs)
        w, row, beta = _orthogonalise(basis[: m + 1], w)
        if not row.abs().max().item() + beta < float("inf"):
            raise NonFiniteError(
                f"matrix-vector product {done} holds NaN or infinity",
                hint="check the loss and the weights for non-finite or overflowing values",
            )
        t[m, : m + 1] = row
        t[: m + 1, m] = row
        m += 1
        values, rotation = torch.linalg.eigh(t[:m, :m])
        scale, low = max(scale, values.abs().max().item()), min(low, values[0].item())
        if beta <= 0.5 * ROUNDING * eps * scale:
            beta = 0.0
        residuals = (beta * rotation[-1]).abs()
        chosen = select(values.tolist(), k, which)
        errors = SAFETY * residuals[chosen] + ROUNDING * eps * scale
        wanted_values = values[chosen].tolist()
        met = waiting.over(done, wanted_values, errors.tolist(), scale, last)
        last = wanted_values
        if (met and m >= min(k, n)) or done >= max_matvecs or m == n:
            break
        if expired is not None and expired():
            break
        if m == size:
            m = _restart(basis, t, values, rotation, keep=_kept(values, k, which, size))
            if beta > 0.0:
                q = w / beta
        elif beta > 0.0:
            q = w / beta
        if beta == 0.0:  # an invariant subspace: look outside of it
            q = _fresh(basis[:m], generator, n)
            if q is None:
                break
    pairs, n_explicit = confirmed(
        operator,
        [(values[i].item(), residuals[i].item(), i) for i in chosen],
        lambda i: basis[:m].T @ rotation[:m, i].to(basis),
        tolerance,
        scale,
        explicit=explicit_residual,
    )
    return ExtremeResult(pairs, done + n_explicit, low_seen=low if random_start else None)


def _orthogonalise(basis: Tensor, w: Tensor) -> tuple[Tensor, Tensor, float]:
    """Two passes: (rest, coefficients (m,) float64, norm of the rest)."""
    total = torch.zeros(len(basis), dtype=torch.float64)
    for _ in range(2):
        coefficients = project(basis, w)
        total += coefficients.to("cpu", torch.float64)
        w = torch.addmv(w, basis.T, coefficients, alpha=-1.0)
    return w, total, norm(w)


def _fresh(basis: Tensor, generator: torch.Generator, n: int) -> Tensor | None:
    """A random unit vector off the basis; None where it spans the space."""
    if len(basis) >= n:
        return None
    for _ in range(8):
        w = gaussian(n, generator=generator, dtype=basis.dtype, device=basis.device)
        for _ in range(2):
            w = unit(_orthogonalise(basis, w)[0])
            if w is None:
                break
        else:
            return w
    return None


def _kept(values: Tensor, k: int, which: Which, size: int) -> list[int]:
    """The wanted Ritz pairs and as many of their neighbours as fill half of the rest."""
    count = min(size - 2, k + (size - k) // 2)
    return select(values.tolist(), count - (1 if which == "both" else 0), which)


def _restart(
    basis: Tensor,
    t: Tensor,
    values: Tensor,
    rotation: Tensor,
    *,
    keep: list[int],
) -> int:
    """Replace the basis by some Ritz vectors, in place; returns their number."""
    turn = rotation[:, keep].T.to(basis)  # (p, m)
    for begin in range(0, basis.shape[1], _COLUMNS):
        part = slice(begin, begin + _COLUMNS)
        basis[: len(keep), part] = turn @ basis[:, part]
    t.zero_()
    t[: len(keep), : len(keep)] = torch.diag(values[keep])
    return len(keep)
