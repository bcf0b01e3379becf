"""Extreme eigenvalues of a symmetric operator by Lanczos, each with a residual bound."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from homotopy_cli.linalg.lanczos import ROUNDING, Tridiagonal, lanczos, ritz_arrays
from homotopy_cli.linalg.operator import LinearOperator
from homotopy_cli.linalg.vectors import dot, norm

Which = Literal["both", "max", "min", "magnitude"]
Explicit = Literal["one"] | bool
Floats = Sequence[float]
Progress = Callable[[int, int], None]  # products done, most that may come

END_FLOOR = 0.1  # an end much smaller than ‖A‖ is resolved to rtol · END_FLOOR · ‖A‖, not less
SAFETY = 1.25  # the recurrence's residual and an explicit one differ a little
BLURRED = 10.0  # a residual above BLURRED·rtol·|θ| was accepted thanks to the floor alone
PATIENCE = 4  # further steps through which a blurred pair must stand still: our choice


@dataclass(frozen=True)
class EigenPair:
    """One signed eigenvalue estimate of A with its unit vector."""

    value: float
    vector: Tensor  # (n,), ‖vector‖ = 1
    residual: float  # ‖Av - λv‖ plus the rounding level ROUNDING·eps·‖A‖
    converged: bool


@dataclass(frozen=True)
class ExtremeResult:
    """Pairs by magnitude, largest first, and what they cost."""

    pairs: list[EigenPair]
    n_matvecs: int
    tridiagonal: Tridiagonal | None = None
    low_seen: float | None = None  # smallest Ritz value; None unless the first vector was random

    @property
    def largest(self) -> EigenPair:
        """The algebraically largest pair found."""
        return max(self.pairs, key=lambda pair: pair.value)

    @property
    def smallest(self) -> EigenPair:
        """The algebraically smallest pair found."""
        return min(self.pairs, key=lambda pair: pair.value)


def extreme_eigenvalues(
    operator: LinearOperator,
    *,
    generator: torch.Generator,
    k: int = 1,
    which: Which = "both",
    rtol: float = 1e-3,
    max_matvecs: int = 300,
    start: Tensor | None = None,
    explicit_residual: Explicit = True,
    multiplicity: bool = False,
    expired: Callable[[], bool] | None = None,
    progress: Progress | None = None,
    locked: Tensor | None = None,
    scale: float = 0.0,
    end_floor: float = END_FLOOR,
    patience: int = PATIENCE,
) -> ExtremeResult:
    """Estimate extreme eigenvalues of a symmetric operator, each with a residual bound.

    Stops when every wanted Ritz pair has residual <= rtol · max(|θ|, end_floor·‖A‖) and did not
    move by more than that in the last step. The residual bounds the distance to *some*
    eigenvalue; that it is the extreme one rests on the random start (certain for exact
    arithmetic when the space is exhausted). A pair of values much smaller than ‖A‖ must stand
    still for `patience` steps: beside λ_min = -21137 almost any vector has a residual that is
    small in units of ‖A‖, long before λ_max = 78 is found.

    Args:
        operator: A, shape (n, n), symmetric.
        generator: CPU generator for start vectors.
        k: Pairs wanted.
        which: "max" or "min" (algebraic), "magnitude", or "both": the k largest by magnitude
            and both algebraic ends.
        rtol: Dimensionless; 1e-3 is our choice (0 of 250 measured runs accepted a wrong value).
        max_matvecs: Budget of products for the recurrence; residuals and the search for
            missed copies come on top.
        start: Warm start (n,).
        explicit_residual: Confirm each pair by one product of its own; the value is then the
            Rayleigh quotient. False takes the recurrence's residual.
        multiplicity: A Krylov space shows one vector of each eigenspace. True looks for missed
            copies in the complement of the pairs found, until there are none.
        expired: True ends the recurrence early; what did not converge says so.
        progress: Called with (products done, budget).
        locked: (m, n) orthonormal eigenvectors to leave out.
        scale: What is known of ‖A‖; matters where `locked` holds the largest.
        end_floor: An end much smaller than ‖A‖ is resolved to this share of rtol·‖A‖.
        patience: See above.

    Returns:
        Pairs by magnitude, largest first. Never raises for slow convergence.
    """
    tolerance = Tolerance(rtol, torch.finfo(operator.dtype).eps, end_floor, patience)
    stop = _Stop(k, which, tolerance, min(max_matvecs, operator.n), expired, progress, scale)
    tri = lanczos(
        operator,
        generator=generator,
        max_steps=max_matvecs,
        start=start,
        stop=stop,
        locked=locked,
    )
    values, residuals, vectors = tri.ritz()
    scale = max(scale, values.abs().max().item())
    pairs, n_explicit = confirmed(
        operator,
        [(values[i].item(), residuals[i].item(), i) for i in select(values.tolist(), k, which)],
        lambda i: tri.basis.combine(vectors[:, i]),
        tolerance,
        scale,
        explicit=explicit_residual,
    )
    n_matvecs = len(tri.basis) + n_explicit
    pairs.sort(key=lambda pair: -abs(pair.value))
    if multiplicity and which in ("both", "magnitude") and len(tri.basis) < operator.n:
        while len(pairs) < operator.n and not (expired is not None and expired()):
            copy = extreme_eigenvalues(
                operator,
                generator=generator,
                which="magnitude",
                rtol=rtol,
                max_matvecs=max_matvecs,
                explicit_residual=explicit_residual,
                expired=expired,
                locked=torch.stack([pair.vector for pair in pairs]),
                scale=scale,
                end_floor=end_floor,
                patience=patience,
            )
            n_matvecs += copy.n_matvecs
            found = copy.pairs[0]
            if abs(found.value) <= abs(pairs[min(k, len(pairs)) - 1].value) + found.residual:
                break
            pairs = _keep([*pairs, found], k, which)
    low_seen = values[0].item() if tri.random_start else None
    return ExtremeResult(pairs, n_matvecs, tridiagonal=tri, low_seen=low_seen)


def confirmed(
    operator: LinearOperator,
    candidates: Sequence[tuple[float, float, int]],
    vector_of: Callable[[int], Tensor],
    tolerance: "Tolerance",
    scale: float,
    *,
    explicit: Explicit,
) -> tuple[list[EigenPair], int]:
    """Make pairs of Ritz values; one product each, as far as asked, replaces their residuals.

    Args:
        operator: A, shape (n, n).
        candidates: (value, residual that the recurrence promises, index) of each.
        vector_of: Index -> Ritz vector, (n,), of any length.
        tolerance: Says what has converged.
        scale: ‖A‖ as far as it is known.
        explicit: True for every pair, False for none; "one" until a pair's residual is about
            what the recurrence promised.

    Returns:
        The pairs, largest |value| first, and the number of products.
    """
    pairs, n_explicit, asked = [], 0, explicit
    for value, residual, index in sorted(candidates, key=lambda c: -abs(c[0])):
        vector = vector_of(index)
        vector = vector / norm(vector)
        if asked:
            product = operator.matvec(vector)
            n_explicit += 1
            value, promised = dot(vector, product), residual
            residual = norm(torch.sub(product, vector, alpha=value))
            kept = residual <= SAFETY * promised + 2.0 * ROUNDING * tolerance.eps * scale
            asked = explicit is True or not kept
        residual += ROUNDING * tolerance.eps * scale
        pairs.append(EigenPair(value, vector, residual, tolerance.met(value, residual, scale)))
    return pairs, n_explicit


@dataclass(frozen=True)
class Tolerance:
    """When a residual is small enough."""

    rtol: float
    eps: float  # of the operator's dtype
    end_floor: float
    patience: int = PATIENCE

    def at(self, value: float, scale: float) -> float:
        """The largest residual accepted for an eigenvalue, with ‖A‖ about `scale`."""
        wanted = self.rtol * max(abs(value), self.end_floor * scale)
        return max(wanted, 2.0 * ROUNDING * self.eps * scale)

    def met(self, value: float, residual: float, scale: float) -> bool:
        """Whether `residual` is small enough."""
        return residual <= self.at(value, scale)

    def blurred(self, value: float, residual: float) -> bool:
        """Whether an accepted residual is large beside |value|: `end_floor` alone let it pass."""
        return residual > BLURRED * self.rtol * abs(value)

    def all_met(self, values: Floats, residuals: Floats, scale: float) -> bool:
        """Whether each of `residuals` is small enough for its value."""
        pairs = zip(values, residuals, strict=True)
        return all(self.met(value, residual, scale) for value, residual in pairs)


class Patience:
    """Whether Ritz values may be believed: converged, at rest, and for long enough if small."""

    def __init__(self, tolerance: Tolerance) -> None:
        self.tolerance = tolerance
        self._since: int | None = None

    def over(
        self, step: int, values: Floats, residuals: Floats, scale: float, last: Floats | None
    ) -> bool:
        """Return True when the wanted values can be believed at this step."""
        met = self.tolerance.all_met
        rests = last is not None and len(last) == len(values) and met(values, residuals, scale)
        moved = [abs(value - old) for value, old in zip(values, last, strict=True)] if rests else []
        if not rests or not met(values, moved, scale):
            self._since = None
            return False
        pairs = zip(values, residuals, strict=True)
        if not any(self.tolerance.blurred(value, residual) for value, residual in pairs):
            return True
        self._since = step if self._since is None else self._since
        return step - self._since >= self.tolerance.patience


class _Stop:
    """Ends the recurrence when every wanted pair has converged and stands still."""

    def __init__(
        self,
        k: int,
        which: Which,
        tolerance: Tolerance,
        limit: int,
        expired: Callable[[], bool] | None,
        progress: Progress | None,
        scale: float,
    ) -> None:
        self.k, self.which, self.tolerance, self.limit = k, which, tolerance, limit
        self.expired, self.progress, self.scale = expired, progress, scale
        self.next_check = 1
        self.last: Floats | None = None
        self.patience = Patience(tolerance)

    def __call__(self, alphas: list[float], betas: list[float]) -> bool:
        m = len(alphas)
        if self.progress is not None:
            self.progress(m, self.limit)
        if self.expired is not None and self.expired():
            return True
        if m < self.next_check and betas[-1] > 0.0:
            return False
        self.next_check = m + 1 + m // 32  # T's eigenproblem costs m³: seldom when m is large
        if m < self.k:
            return False
        values, residuals, _ = ritz_arrays(alphas, betas)
        scale = max(self.scale, abs(float(values[0])), abs(float(values[-1])))
        index = select(values.tolist(), self.k, self.which)
        wanted = values[index].tolist()
        last, self.last = self.last, wanted
        errors = (SAFETY * residuals[index] + ROUNDING * self.tolerance.eps * scale).tolist()
        if betas[-1] == 0.0:  # an invariant subspace: nothing can move any more
            return self.tolerance.all_met(wanted, errors, scale)
        return self.patience.over(m, wanted, errors, scale, last)


def select(values: Floats, k: int, which: Which) -> list[int]:
    """Indices into ascending Ritz values of the pairs that are wanted."""
    m = len(values)
    if which == "max":
        return list(range(max(0, m - k), m))
    if which == "min":
        return list(range(min(k, m)))
    chosen = set(sorted(range(m), key=lambda i: -abs(values[i]))[:k])
    if which == "both":
        chosen |= {0, m - 1}
    return sorted(chosen)


def _keep(pairs: list[EigenPair], k: int, which: Which) -> list[EigenPair]:
    """The k largest by magnitude, and for "both" the algebraic ends too."""
    pairs = sorted(pairs, key=lambda pair: -abs(pair.value))
    ends = ExtremeResult(pairs, 0)
    return [
        pair
        for i, pair in enumerate(pairs)
        if i < k or (which == "both" and (pair is ends.largest or pair is ends.smallest))
    ]
