"""The eigenvalue density as a record: by quadrature, or exact when the spectrum is known."""

import torch

from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.moments import Moments
from homotopy_cli.curvature.spectrum import Deadline
from homotopy_cli.linalg import slq
from homotopy_cli.linalg.extreme import ExtremeResult, Progress
from homotopy_cli.linalg.lanczos import Tridiagonal
from homotopy_cli.linalg.operator import LinearOperator
from homotopy_cli.records import SpectralDensity

SHARP = 0.01  # residual over |λ| below which a pair counts as one known eigenvalue: our choice


def spectral_density(
    operator: LinearOperator,
    config: EstimatorConfig,
    generator: torch.Generator,
    moments: Moments | None = None,
    known: ExtremeResult | None = None,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> SpectralDensity:
    """Return nodes and weights of the eigenvalue density.

    Args:
        operator: A, shape (n, n).
        config: density_probes and density_steps.
        generator: Draws the quadrature's start vectors.
        moments: When these are exact, so is the density: every eigenvalue with weight 1/n.
        known: Pairs found before; those that stand out by their residuals are counted exactly.
        deadline: Ends the quadrature early, with at least one start vector.
        progress: Called with (products done, most that may come).
    """
    if moments is not None and moments.eigenvalues is not None:
        nodes = moments.eigenvalues
        n = len(nodes)
        return SpectralDensity(
            nodes=nodes.numpy(),
            weights=torch.full((n,), 1.0 / n, dtype=torch.float64).numpy(),
            sigma=slq.drawing_width(nodes),
            n_probes=0,
            cdf_stderr=0.0,
        )
    quadrature = slq.spectral_density(
        operator,
        generator=generator,
        n_probes=config.density_probes,
        n_steps=config.density_steps,
        first=None if known is None else _from_random(known),
        known=[]
        if known is None
        else [p for p in known.pairs if p.residual <= SHARP * abs(p.value)],
        expired=None if deadline is None else deadline.passed,
        progress=progress,
    )
    return SpectralDensity(
        nodes=quadrature.nodes.numpy(),
        weights=quadrature.weights.numpy(),
        sigma=quadrature.sigma,
        n_probes=quadrature.n_probes,
        cdf_stderr=quadrature.cdf_stderr,
    )


def _from_random(found: ExtremeResult) -> Tridiagonal | None:
    """The run that found the pairs, where its first vector was random."""
    run = found.tridiagonal
    return run if run is not None and run.random_start else None
