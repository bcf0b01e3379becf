"""Trace and squared Frobenius norm by random probes, with standard errors.

For a vector z of random signs E[zᵀAz] = tr A and E[‖Az‖²] = ‖A‖_F². Neither is a norm of the
other kind: zᵀAz is the size of the trace, and ‖A‖₂ comes from Lanczos only. Signs have the
smallest variance of all independent entries: 2(‖A‖_F² - Σ A_ii²) for the trace.

A low-rank part M that is already known is taken out as a control variate: the probes then meet
A - M only, and tr M is added exactly. It costs no product. From Ritz pairs M = VᵀΛV; where the
products AV are at hand, M = VᵀΛV + VᵀR + RᵀV with R = (I - VᵀV)AV, and A - M is A compressed to
the complement of V, as in Hutch++.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from homotopy_cli.errors import NonFiniteError
from homotopy_cli.linalg.operator import LinearOperator
from homotopy_cli.linalg.vectors import (
    added,
    dot,
    gaussian,
    part_length,
    project,
    rademacher,
)


@dataclass(frozen=True)
class MeanEstimate:
    """A mean over random probes with its standard error."""

    value: float
    stderr: float  # inf for a single probe: one sample says nothing about its spread
    n_probes: int


@dataclass(frozen=True)
class LowRank:
    """M = Σ λ_i v_i v_iᵀ + Σ (v_i r_iᵀ + r_i v_iᵀ): what is already known of A."""

    values: Tensor  # (k,) float64
    vectors: Tensor  # (k, n), orthonormal
    residuals: Tensor | None = None  # (m, n) of the last m vectors, orthogonal to all; None = 0

    def diagonal(self) -> Tensor:
        """The diagonal of M, shape (n,), float64."""
        found = torch.zeros_like(self.vectors[0], dtype=torch.float64)
        for value, vector in zip(self.values.tolist(), self.vectors, strict=True):
            found.add_(vector.double().square(), alpha=value)
        for vector, residual in self._pairs():
            found.add_(vector.double() * residual.double(), alpha=2.0)
        return found

    def squared_norm(self) -> float:
        """‖M‖_F²."""
        beside = math.fsum(2.0 * dot(residual, residual) for _, residual in self._pairs())
        return (self.values**2).sum().item() + beside

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.residuals is not None:
            yield from zip(self.vectors[-len(self.residuals) :], self.residuals, strict=True)

    def times(self, z: Tensor) -> Tensor:
        """Mz, shape (n,)."""
        along = project(self.vectors, z)
        product = self.vectors.T @ (self.values.to(z.device, z.dtype) * along)
        if self.residuals is not None:
            m = len(self.residuals)
            product += self.vectors[-m:].T @ project(self.residuals, z)
            product += self.residuals.T @ along[-m:]
        return product


@dataclass(frozen=True)
class ProbeSample:
    """What one product Az with a sign vector z says."""

    block_traces: Tensor  # (n_segments,) float64: unbiased for the trace of each diagonal block
    squared_norm: float  # unbiased for ‖A‖_F²


def mean_with_error(samples: list[float]) -> MeanEstimate:
    """Return the mean and standard error of independent samples."""
    n = len(samples)
    mean = math.fsum(samples) / n
    if n == 1:
        return MeanEstimate(mean, math.inf, 1)
    variance = math.fsum((s - mean) ** 2 for s in samples) / (n - 1)
    return MeanEstimate(mean, math.sqrt(variance / n), n)


def probe_samples(
    operator: LinearOperator,
    *,
    generator: torch.Generator,
    lengths: Tensor | None = None,
    known: LowRank | None = None,
) -> Iterator[ProbeSample]:
    """Yield independent samples of the segment traces and of ‖A‖_F², one product each.

    Args:
        operator: A, shape (n, n), symmetric.
        generator: Draws the signs.
        lengths: Consecutive segments of the vector, (n_segments,) integers that sum to n; the
            trace of each diagonal block A_ss is sampled from the same product. One when None.
            Of this rank's part, where vectors are spread out.
        known: Low-rank part of A, independent of the generator's draws.

    Raises:
        NonFiniteError: A product holds NaN or infinity.
    """
    if lengths is None:
        lengths = torch.tensor([part_length(operator.n)])
    lengths = lengths.to(operator.device)
    known_traces, known_norm = 0.0, 0.0
    if known is not None:
        weighted = known.diagonal()
        known_traces = added(torch.segment_reduce(weighted, "sum", lengths=lengths))
        known_norm = known.squared_norm()
    while True:
        z = rademacher(
            operator.n, generator=generator, dtype=operator.dtype, device=operator.device
        )
        product = operator.matvec(z).to(torch.float64)
        squared_norm = dot(product, product)
        if not squared_norm < math.inf:
            raise NonFiniteError(
                "the product with a random probe holds NaN or infinity",
                hint="check the loss and the weights for non-finite or overflowing values",
            )
        rest = product
        if known is not None:
            part = known.times(z).to(torch.float64)
            rest = product - part
            squared_norm += known_norm - dot(part, part)
        quadratic = torch.segment_reduce(z.to(torch.float64) * rest, "sum", lengths=lengths)
        yield ProbeSample(added(quadratic) + known_traces, squared_norm)


def sketched(
    operator: LinearOperator,
    *,
    generator: torch.Generator,
    n_matvecs: int,
    known: LowRank | None = None,
) -> LowRank:
    """Return a low-rank part of A from a random sketch of its range: Hutch++'s first half.

    An orthonormal basis Q of [known vectors, AG] by n_matvecs/2 products with a Gaussian G,
    then the eigenpairs of Q'AQ, and what AQ has outside of Q, by as many more. As a control
    variate for `probe_samples` any M that does not depend on the later probes is right; this
    one takes out the large eigenvalues. The signs must come after this in the same generator, or
    from another.

    Args:
        operator: A, shape (n, n), symmetric.
        generator: Draws G.
        n_matvecs: At least 2.
        known: Eigenpairs that are left out of the sketch and kept in the result.

    Source: Meyer, Musco, Musco & Woodruff, Hutch++ (2021), Algorithm 1.
    """
    rank = max(1, min(n_matvecs // 2, operator.n - (0 if known is None else len(known.values))))
    draw = {"generator": generator, "dtype": operator.dtype, "device": operator.device}
    sketch = torch.stack([operator.matvec(gaussian(operator.n, **draw)) for _ in range(rank)])
    if known is not None:
        for _ in range(2):
            sketch = sketch - (sketch @ known.vectors.T) @ known.vectors
    q = torch.linalg.qr(sketch.T).Q.T.contiguous()  # (rank, n), orthonormal rows
    products = torch.stack([operator.matvec(row) for row in q])
    small = (products @ q.T).to(torch.float64)
    values, rotation = torch.linalg.eigh(0.5 * (small + small.T))
    rotation = rotation.T.to(operator.dtype)
    vectors, residuals = rotation @ q, rotation @ products
    values = values.cpu()
    if known is not None:
        values, vectors = torch.cat([known.values, values]), torch.cat([known.vectors, vectors])
    for _ in range(2):
        residuals = residuals - (residuals @ vectors.T) @ vectors
    return LowRank(values, vectors, residuals)


def trace(
    operator: LinearOperator,
    *,
    generator: torch.Generator,
    n_probes: int,
    known: LowRank | None = None,
) -> MeanEstimate:
    """Estimate tr A from `n_probes` products (Hutchinson 1990; Skilling 1989)."""
    samples = probe_samples(operator, generator=generator, known=known)
    return mean_with_error([next(samples).block_traces.sum().item() for _ in range(n_probes)])


def squared_frobenius_norm(
    operator: LinearOperator,
    *,
    generator: torch.Generator,
    n_probes: int,
    known: LowRank | None = None,
) -> MeanEstimate:
    """Estimate ‖A‖_F² = tr A² from `n_probes` products."""
    samples = probe_samples(operator, generator=generator, known=known)
    return mean_with_error([next(samples).squared_norm for _ in range(n_probes)])
