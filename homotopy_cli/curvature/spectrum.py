"""Extreme eigenvalues of an operator at the effort that the configuration allows."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

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
from homotopy_cli.linalg.lanczos import ROUNDING
from homotopy_cli.linalg.operator import LinearOperator
from homotopy_cli.linalg.thick_restart import restarted_eigenvalues
from homotopy_cli.problems.reducer import LOCAL, Reducer
from homotopy_cli.records import Eigenvalue

WORST = 3.0  # times their expected error that products by differences may be off: measured
FAR = 0.5  # a smallest Ritz value above -FAR·λ_max leaves no doubt which end is larger: our choice


@dataclass(frozen=True)
class Deadline:
    """A moment, or a word from outside, after which iterations stop and say what is missing."""

    at: float | None  # time.monotonic(), None = never
    stop: Callable[[], bool] | None = None  # asked between products: True = stop now
    reducer: Reducer = LOCAL  # ranks that must stop together

    @classmethod
    def after(
        cls,
        seconds: float | None,
        stop: Callable[[], bool] | None = None,
        reducer: Reducer = LOCAL,
    ) -> "Deadline":
        """Return the deadline that lies `seconds` from now; None never comes."""
        return cls(None if seconds is None else time.monotonic() + seconds, stop, reducer)

    def passed(self) -> bool:
        """Whether it is later than that, or `stop` says so, on any rank."""
        over = self.at is not None and time.monotonic() >= self.at
        return self.reducer.any(over or (self.stop is not None and self.stop()))


def extremes(
    operator: LinearOperator,
    config: EstimatorConfig,
    *,
    generator: torch.Generator,
    k: int = 1,
    which: Which | None = None,
    start: Tensor | None = None,
    spent: int = 0,
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
        which: See `linalg.extreme`; as configured when None.
        start: First vector (n,); random when None.
        spent: Products that finding `start` took; part of max_hvp.
        warm: Where to find and keep start vectors under `key`; None keeps none.
        key: Name of the operator among the warm starts.
        metric: P^-1/2, shape (n,), when `operator` is preconditioned.
        deadline: Ends the iteration early.
        progress: Called with (products done, budget).
    """
    n, source = operator.n, operator
    if warm is not None:
        sqrt = None if metric is None else torch.where(metric > 0, 1.0 / metric, 0.0)
        start = warm.start(key, n, generator=generator, sqrt=sqrt, device=operator.device)
    if config.steps is None:
        rtol, budget = config.resolution(n)
    else:
        rtol = config.rtol
        budget = config.steps if start is not None else max(config.steps, config.cold_steps)
    explicit, copies = config.confirmation(n)
    which = config.ends if which is None else which
    expired = None if deadline is None else deadline.passed
    if config.max_hvp is not None and config.steps is None:
        budget = max(1, budget - spent)
        explicit, reserved = (explicit, k + 1) if budget >= 2 * (k + 1) else (False, 0)
        budget -= reserved
        operator = _Counted(operator)
        expired = operator.until(budget, expired)
    settings: dict[str, Any] = {
        "generator": generator,
        "k": k,
        "which": which,
        "end_floor": config.end_floor,
        "patience": config.patience,
        "rtol": rtol,
        "max_matvecs": budget,
        "start": start,
        "explicit_residual": explicit,
        "expired": expired,
        "progress": progress,
    }
    room = config.max_memory // max(1, n * torch.finfo(operator.dtype).bits // 8)
    if room >= min(budget, n):
        found = extreme_eigenvalues(operator, multiplicity=copies and k > 1, **settings)
    else:
        found = restarted_eigenvalues(operator, max_basis=max(room, k + 4), **settings)
    if warm is not None:
        warm.keep(key, found, inv_sqrt=metric)
    if rtol < config.rtol:  # a small problem went on, to where rounding may have ended it
        pairs = [replace(p, converged=p.converged or _met(p, config.rtol)) for p in found.pairs]
        found = replace(found, pairs=pairs)
    return _widened(found, source) if config.steps is None else found


def _widened(found: ExtremeResult, operator: LinearOperator) -> ExtremeResult:
    """The pairs, with the error of products by differences of gradients added to residuals.

    A residual bounds the distance to an eigenvalue of the matrix that was multiplied with, which
    is not quite A. `converged` stays as it is: more products would not lessen this error.
    """
    share = getattr(operator, "product_error", 0.0)
    if not share:
        return found
    size = max(abs(pair.value) for pair in found.pairs)
    pairs = [replace(pair, residual=pair.residual + WORST * share * size) for pair in found.pairs]
    return replace(found, pairs=pairs)


def stated(
    found: ExtremeResult, config: EstimatorConfig, n: int, *, near: bool = False
) -> ExtremeResult:
    """The pairs with residuals that reach the end they stand for, not just some eigenvalue.

    Where an end much smaller than ‖A‖ was accepted thanks to the floor of the tolerance, what lies
    within that floor was not waited for; and an iteration that began near an eigenvector confirms
    that one and looks for no neighbour within the tolerance.

    Args:
        found: To the tolerance of `config`.
        config: Its rtol and end_floor.
        n: Parameters.
        near: The iteration began near an eigenvector.
    """
    rtol, _ = config.resolution(n)
    low, _ = _lowest_ritz(found)
    size = max(0.0 if low == math.inf else abs(low), *(abs(pair.value) for pair in found.pairs))

    def error(pair: EigenPair) -> float:
        own = rtol * abs(pair.value)
        floored = pair.converged and pair.residual > own
        beyond = rtol * config.end_floor * size if floored else 0.0
        return max(pair.residual + beyond, own if near else 0.0)

    return replace(found, pairs=[replace(pair, residual=error(pair)) for pair in found.pairs])


class _Counted:
    """An operator that ends an iteration, and the search for copies after it, at a budget."""

    def __init__(self, operator: LinearOperator) -> None:
        self.operator, self.n_matvecs = operator, 0
        self.n, self.dtype, self.device = operator.n, operator.dtype, operator.device

    def matvec(self, v: Tensor) -> Tensor:
        self.n_matvecs += 1
        return self.operator.matvec(v)

    def until(self, budget: int, expired: Callable[[], bool] | None) -> Callable[[], bool]:
        """Return what says that the budget is spent, or that `expired` does."""
        return lambda: self.n_matvecs >= budget or (expired is not None and expired())


def _met(pair: EigenPair, rtol: float) -> bool:
    return pair.residual <= rtol * abs(pair.value)


def size_of(found: ExtremeResult, ends: str, rtol: float) -> float | None:
    """Return ‖A‖₂, or None where only λ_max was asked for and |λ_min| may be larger.

    With `ends` "max" the smallest Ritz value decides. If the first vector was random and that
    value is far from -λ_max, ‖A‖ = λ_max. If it is the larger in magnitude and its own residual
    has converged, ‖A‖ = -λ_min. A start near the top eigenvector shows nothing of the other end.
    """
    if ends == "both":
        return max(abs(found.largest.value), abs(found.smallest.value))
    high, low = found.largest.value, found.low_seen
    if high > 0.0 and low is not None and abs(low) < FAR * high:
        return high
    low, residual = _lowest_ritz(found)
    return -low if -low > max(high, 0.0) and residual <= rtol * abs(low) else None


def _lowest_ritz(found: ExtremeResult) -> tuple[float, float]:
    """The smallest Ritz value and its residual, with rounding; (inf, inf) without tridiagonal."""
    if found.tridiagonal is None:
        return math.inf, math.inf
    values, residuals, _ = found.tridiagonal.ritz()
    rounding = ROUNDING * torch.finfo(found.largest.vector.dtype).eps * values.abs().max().item()
    return values[0].item(), residuals[0].item() + rounding


def norm_and_lowest(
    found: ExtremeResult, config: EstimatorConfig, lowest: Callable[[], EigenPair]
) -> tuple[float | None, Eigenvalue | None]:
    """Return (‖A‖₂ or None, λ_min where `ends` "max" left it out and it matters).

    Args:
        found: The pairs.
        config: ends, rtol, settle_norm.
        lowest: Finds λ_min; asked only where ‖A‖ hangs on it and settle_norm is set.
    """
    size = size_of(found, config.ends, config.rtol)
    if size is None and config.settle_norm:
        pair = lowest()
        return max(abs(found.largest.value), abs(pair.value)), as_record(pair)
    low, residual = _lowest_ritz(found)
    if config.ends != "both" and low == -(size or 0.0) < 0.0:  # size_of saw it converged
        return size, Eigenvalue(value=low, residual=residual, converged=True)
    return size, None


def as_record(pair: EigenPair) -> Eigenvalue:
    """Return the pair without its vector."""
    return Eigenvalue(value=pair.value, residual=pair.residual, converged=pair.converged)
