"""Spectral density by stochastic Lanczos quadrature.

For a random unit vector q the Ritz values θ_i of q's Krylov space with weights (e₁ᵀs_i)² are
the Gauss quadrature of q's spectral measure: it integrates polynomials up to degree 2m - 1
exactly. Averaging over random q gives the eigenvalue density of A.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from homotopy_cli.linalg.extreme import EigenPair
from homotopy_cli.linalg.lanczos import Tridiagonal, lanczos
from homotopy_cli.linalg.operator import LinearOperator
from homotopy_cli.linalg.vectors import rademacher


@dataclass(frozen=True)
class Quadrature:
    """A discrete approximation of the eigenvalue density."""

    nodes: Tensor  # (k,) float64, ascending Ritz values, unit of A
    weights: Tensor  # (k,) float64, non-negative, sum to 1
    sigma: float  # suggested Gaussian width for drawing, unit of A
    n_probes: int
    n_matvecs: int  # without those of a run that was given
    cdf_stderr: float | None = None  # largest standard error of a share of eigenvalues below λ


def spectral_density(
    operator: LinearOperator,
    *,
    generator: torch.Generator,
    n_probes: int = 4,
    n_steps: int = 40,
    known: Sequence[EigenPair] = (),
    first: Tridiagonal | None = None,
    expired: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Quadrature:
    """Estimate the eigenvalue density of a symmetric operator.

    Args:
        operator: A, shape (n, n), symmetric.
        generator: Draws the random signs that start each Krylov space.
        n_probes: Start vectors; the error of a smooth functional falls as 1/√(n · n_probes).
        n_steps: Lanczos steps for each; fewer when the space is exhausted.
        known: Orthogonal eigenpairs found before: each counts as one eigenvalue of weight 1/n,
            and the quadrature is left to the rest of the spectrum, whose details outliers hide.
        first: A run of the operator from a random vector: the first of the n_probes, for free.
        expired: Asked before each further start vector; True ends with those done so far.
        progress: Called with (products done, most that may come).

    Returns:
        Nodes and weights over all probes; Σ wθ estimates tr A / n, Σ wθ² ‖A‖_F² / n.

    Source: Golub & Welsch (1969); Ubaru, Chen & Saad (2017); Ghorbani et al. (2019).
    """
    n, known = operator.n, list(known)[: operator.n - 1]
    locked = torch.stack([pair.vector for pair in known]) if known else None
    nodes, weights, done = [], [], 0
    if first is not None:
        theta, weight = _without(first, known)
        nodes.append(theta)
        weights.append(weight)
    extra = n_probes - len(nodes)
    for _ in range(extra):
        if nodes and expired is not None and expired():
            break
        start = rademacher(n, generator=generator, dtype=operator.dtype, device=operator.device)
        tri = lanczos(
            operator,
            generator=generator,
            max_steps=n_steps,
            start=start,
            restart=False,
            locked=locked,
        )
        values, _, vectors = tri.ritz()
        nodes.append(values)
        weights.append(vectors[0] ** 2)
        done += len(values)
        if progress is not None:
            progress(done, extra * n_steps)
    outliers = torch.tensor([pair.value for pair in known], dtype=torch.float64)
    rest = (n - len(known)) / n
    theta, order = torch.cat([*nodes, outliers]).sort()
    weight = torch.cat([rest / len(nodes) * torch.cat(weights), torch.full_like(outliers, 1.0 / n)])
    weight = weight[order]
    return Quadrature(
        nodes=theta,
        weights=weight / weight.sum(),
        sigma=drawing_width(theta),
        n_probes=len(nodes),
        n_matvecs=done,
        cdf_stderr=_cdf_stderr(nodes, [rest * w for w in weights], theta),
    )


def _without(run: Tridiagonal, known: Sequence[EigenPair]) -> tuple[Tensor, Tensor]:
    """A run's quadrature with the nodes of `known` pairs left out; weights add up to 1.

    What is left of a random start vector off those eigenvectors is as random there.
    """
    values, residuals, vectors = run.ritz()
    weight = vectors[0] ** 2
    kept = torch.ones(len(values), dtype=torch.bool)
    for pair in known:
        distance = (values - pair.value).abs().masked_fill(~kept, torch.inf)
        nearest = int(distance.argmin())
        if distance[nearest] <= pair.residual + residuals[nearest]:
            kept[nearest] = False
    if not kept.any():
        kept = ~kept
    return values[kept], weight[kept] / weight[kept].sum()


def _cdf_stderr(nodes: list[Tensor], weights: list[Tensor], at: Tensor) -> float | None:
    """Return the largest standard error, over `at`, of the mean of the probes' step functions."""
    if len(nodes) < 2:
        return None
    steps = []
    for theta, weight in zip(nodes, weights, strict=True):
        below = torch.cat([weight.new_zeros(1), weight.cumsum(0)])
        steps.append(below[torch.searchsorted(theta, at, right=True)])
    spread = torch.stack(steps).std(dim=0)
    return (spread.max() / len(nodes) ** 0.5).item()


def drawing_width(nodes: Tensor) -> float:
    """Return a Gaussian width that shows single outliers without hiding the bulk: range/100."""
    span = (nodes.max() - nodes.min()).item()
    return span / 100.0 if span > 0.0 else max(abs(nodes.max().item()) / 100.0, 1e-12)
