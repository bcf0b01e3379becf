"""The diagonal of a symmetric operator by random signs, each entry with a standard error."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from homotopy_cli.errors import NonFiniteError
from homotopy_cli.linalg.hutchinson import LowRank
from homotopy_cli.linalg.operator import LinearOperator
from homotopy_cli.linalg.vectors import rademacher


@dataclass(frozen=True)
class DiagonalEstimate:
    """A_ii and the standard error of each."""

    value: Tensor  # (n,) in the operator's dtype
    stderr: Tensor  # (n,), from the spread over the probes
    n_probes: int


def diagonal(
    operator: LinearOperator,
    *,
    generator: torch.Generator,
    n_probes: int,
    known: LowRank | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DiagonalEstimate:
    """Estimate the diagonal of A as the mean of z ∘ Az over random sign vectors z.

    Entry i has the variance Σ_{j≠i} A_ij² in each probe, so the error is about the norm of
    the rest of its row over √n_probes: useful where the diagonal dominates, or where `known`
    holds what makes the rows large. Memory: three vectors.

    Args:
        operator: A, shape (n, n), symmetric.
        generator: Draws the signs; must not have drawn anything `known` depends on.
        n_probes: At least 2; one product each.
        known: Low-rank part of A, added exactly and taken out of the probes.
        progress: Called with (products done, n_probes).

    Raises:
        NonFiniteError: A product holds NaN or infinity.

    Source: Bekas, Kokiopoulou & Saad (2007).
    """
    if n_probes < 2:
        raise ValueError(f"a standard error needs at least 2 probes, got {n_probes}")
    mean = torch.zeros(operator.n, dtype=operator.dtype, device=operator.device)
    spread = torch.zeros_like(mean)
    for i in range(1, n_probes + 1):
        z = rademacher(
            operator.n, generator=generator, dtype=operator.dtype, device=operator.device
        )
        sample = operator.matvec(z)
        if known is not None:
            sample = sample - known.times(z)
        sample = sample * z
        step = sample - mean
        mean += step / i
        spread += step * (sample - mean)
        if progress is not None:
            progress(i, n_probes)
    if not bool(torch.isfinite(mean).all()):
        raise NonFiniteError(
            "the product with a random probe holds NaN or infinity",
            hint="check the loss and the weights for non-finite or overflowing values",
        )
    if known is not None:
        mean += known.diagonal().to(mean.dtype)
    stderr = (spread / (n_probes - 1) / n_probes).clamp_(min=0.0).sqrt_()
    return DiagonalEstimate(mean, stderr, n_probes)
