"""The Lanczos recurrence with full reorthogonalisation.

After m products T = QᵀAQ is tridiagonal, and a Ritz pair (θ, y = Qs) has the residual
‖Ay - θy‖ = |β_m s_m|: some eigenvalue of A lies within that of θ (Parlett, The Symmetric
Eigenvalue Problem, 1998, Thm 4.5.1). Without reorthogonalisation T grows copies of converged
eigenvalues, which look like multiplicity; so every new vector is orthogonalised against all.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from homotopy_cli.errors import NonFiniteError
from homotopy_cli.linalg.basis import Basis
from homotopy_cli.linalg.operator import LinearOperator
from homotopy_cli.linalg.vectors import dot, unit

ROUNDING = 16.0  # units of eps·‖A‖ below which a residual is noise: our choice, tested on P cases


@dataclass(frozen=True)
class Tridiagonal:
    """T = QᵀAQ after m steps, and the basis Q that made it."""

    alphas: Tensor  # (m,) float64, diagonal
    betas: Tensor  # (m,) float64; betas[-1] couples to the vector that would come next
    basis: Basis  # m vectors (n,)
    breakdown: bool  # the start vector's Krylov space was exhausted at least once
    random_start: bool = False  # the first vector has no preferred direction

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return ascending Ritz values (m,), their residuals (m,), and T's eigenvectors (m, m)."""
        return ritz_pairs(self.alphas.tolist(), self.betas.tolist())


def lanczos(
    operator: LinearOperator,
    *,
    generator: torch.Generator,
    max_steps: int,
    start: Tensor | None = None,
    stop: Callable[[list[float], list[float]], bool] | None = None,
    restart: bool = True,
    locked: Tensor | None = None,
) -> Tridiagonal:
    """Reduce a symmetric operator to tridiagonal form on a Krylov space.

    When the space is exhausted (β at rounding level: a degenerate spectrum, a start vector
    inside an invariant subspace, A = 0) a fresh random vector orthogonal to the basis goes on
    with β = 0, so that T stays an exact section of A and further eigenvalues are found, never
    invented. Ends after n steps at the latest; T then has exactly A's eigenvalues.

    Args:
        operator: A, shape (n, n), symmetric.
        generator: Draws the start vector N(0, I) and every fresh one.
        max_steps: The most products.
        start: First vector (n,), need not be normalised; random when None, zero or non-finite.
        stop: Called with (alphas, betas) after each product; True ends the recurrence.
        restart: False ends at the first breakdown instead (the quadrature of one vector).
        locked: (k, n) orthonormal rows; the whole recurrence stays in their complement, which
            holds the other eigenvectors when these are eigenvectors. k < n.

    Raises:
        NonFiniteError: A product holds NaN or infinity.
    """
    n, eps = operator.n, torch.finfo(operator.dtype).eps
    steps = min(max_steps, n if locked is None else n - len(locked))
    if steps < 1:
        raise ValueError(f"need n >= 1 and max_steps >= 1, got n={n}, max_steps={max_steps}")
    basis = Basis(n, dtype=operator.dtype, device=operator.device, capacity=steps, locked=locked)
    vector = None if start is None else unit(start.to(operator.dtype))
    if locked is not None and vector is not None:
        vector = unit(basis.orthogonalise(vector)[0])
    random_start = vector is None
    if vector is None:
        vector = basis.fresh(generator)
    alphas: list[float] = []
    betas: list[float] = []
    scale, previous, breakdown = 0.0, None, False
    while vector is not None:
        basis.append(vector)
        w = operator.matvec(vector)
        alpha = dot(vector, w)
        w = torch.sub(w, vector, alpha=alpha)
        if previous is not None and betas[-1] > 0.0:
            w = w.sub_(previous, alpha=betas[-1])
        w, beta = basis.orthogonalise(w)
        if not abs(alpha) + beta < float("inf"):
            raise NonFiniteError(
                f"matrix-vector product {len(alphas) + 1} holds NaN or infinity",
                hint="check the loss and the weights for non-finite or overflowing values",
            )
        scale = max(scale, abs(alpha) + beta)
        exhausted = beta <= 0.5 * ROUNDING * eps * scale or len(basis) == basis.room
        breakdown |= exhausted
        alphas.append(alpha)
        betas.append(0.0 if exhausted else beta)
        if len(alphas) >= steps or (stop is not None and stop(alphas, betas)):
            break
        if exhausted and not restart:
            break
        previous = vector
        vector = basis.fresh(generator) if exhausted else w.div_(beta)
    return Tridiagonal(
        alphas=torch.tensor(alphas, dtype=torch.float64),
        betas=torch.tensor(betas, dtype=torch.float64),
        basis=basis,
        breakdown=breakdown,
        random_start=random_start,
    )


def ritz_pairs(alphas: list[float], betas: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return ascending eigenvalues (m,), residuals |β_m s_m| and eigenvectors (m, m) of T."""
    values, residuals, vectors = ritz_arrays(alphas, betas)
    return torch.from_numpy(values), torch.from_numpy(residuals), torch.from_numpy(vectors)


def ritz_arrays(
    alphas: list[float], betas: list[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the same as float64 arrays: for so small a matrix a torch call costs more."""
    m = len(alphas)
    t = np.zeros((m, m))
    t.flat[:: m + 1] = alphas
    t.flat[m :: m + 1] = betas[:-1]  # below the diagonal, which is all that eigh reads
    values, vectors = np.linalg.eigh(t)
    return values, np.abs(betas[-1] * vectors[-1]), vectors
