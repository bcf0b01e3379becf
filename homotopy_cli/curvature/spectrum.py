"""Extreme eigenvalues of an operator at the effort that the configuration allows."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.warm import WarmStarts
from homotopy_cli.linalg.extreme import (
    EigenPair,
    ExtremeResult,
    Progress,
    Which,
    extreme_eigenvalues,
)
from homotopy_cli.linalg.operator import LinearOperator
from homotopy_cli.records import Eigenvalue


@dataclass(frozen=True)
class Deadline:
    """A moment after which iterations stop and say what did not converge."""

    at: float | None  # time.monotonic(), None = never

    @classmethod
    def after(cls, seconds: float | None) -> "Deadline":
        """Return the deadline that lies `seconds` from now; None never comes."""
        return cls(None if seconds is None else time.monotonic() + seconds)

    def passed(self) -> bool:
        """Whether it is later than that."""
        return self.at is not None and time.monotonic() >= self.at


def extremes(
    operator: LinearOperator,
    config: EstimatorConfig,
    *,
    generator: torch.Generator,
    k: int = 1,
    which: Which = "both",
    warm: WarmStarts | None = None,
    key: str = "",
    metric: Tensor | None = None,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> ExtremeResult:
    """Return extreme pairs: to the tolerance (thorough) or after few steps (cheap).

    Args:
        operator: Symmetric, shape (n, n).
        config: Tolerance and budget.
        generator: Draws start vectors.
        k: Pairs wanted.
        which: See `linalg.extreme`.
        warm: Where to find and keep start vectors under `key`; None starts at random.
        key: Name of the operator among the warm starts.
        metric: P^-1/2, shape (n,), when `operator` is preconditioned.
        deadline: Ends the iteration early.
        progress: Called with (products done, budget).
    """
    n = operator.n
    start = None
    if warm is not None:
        sqrt = None if metric is None else torch.where(metric > 0, 1.0 / metric, 0.0)
        start = warm.start(key, n, generator=generator, sqrt=sqrt)
    if config.steps is None:
        rtol, budget = config.resolution(n)
    else:
        rtol = config.rtol
        budget = config.steps if start is not None else max(config.steps, config.cold_steps)
    found = extreme_eigenvalues(
        operator,
        generator=generator,
        k=k,
        which=which,
        rtol=rtol,
        max_matvecs=budget,
        start=start,
        explicit_residual=config.explicit_residual,
        multiplicity=config.multiplicity and k > 1,
        expired=None if deadline is None else deadline.passed,
        progress=progress,
    )
    if warm is not None:
        warm.keep(key, found, inv_sqrt=metric)
    return found


def as_record(pair: EigenPair) -> Eigenvalue:
    """Return the pair without its vector."""
    return Eigenvalue(value=pair.value, residual=pair.residual, converged=pair.converged)
