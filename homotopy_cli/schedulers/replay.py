"""The learning rates of an earlier run again: as they were, or with its factors out of order.

Shuffled, it is the placebo of a curvature ceiling: the same schedule, and the very same cuts below
it, at times that have nothing to do with the curvature. What a ceiling gains over its placebo is
due to *when* it acted. No torch.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Replay:
    """Callable step -> factor of the base rate; past the end the last one holds."""

    factors: tuple[float, ...]

    def __call__(self, step: int) -> float:
        """The factor for optimizer step `step` (0-based)."""
        return self.factors[min(step, len(self.factors) - 1)]


def shuffled(factors: Sequence[float], *, blocks: int, seed: int) -> list[float]:
    """The same factors with `blocks` stretches of the run in another order.

    Stretches, not single steps: a ceiling changes slowly, and so must its placebo.
    """
    if not factors:
        return []
    n, k = len(factors), max(1, min(blocks, len(factors)))
    edges = [i * n // k for i in range(k + 1)]
    order = list(range(k))
    random.Random(seed).shuffle(order)
    return [x for i in order for x in factors[edges[i] : edges[i + 1]]]


def replay(
    rates: Sequence[float],
    schedule: Sequence[float],
    *,
    base_lr: float,
    blocks: int = 20,
    seed: int | None = None,
) -> Replay:
    """The rates of a run as factors of `base_lr`.

    Args:
        rates: Used at each optimizer step.
        schedule: What the schedule alone would have used.
        base_lr: Rate that the factors will be multiplied by, above 0.
        blocks: Stretches that a seed puts in another order.
        seed: None: as they were. A number: schedule · shuffled(rate / schedule).

    Raises:
        ValueError: No rate, base_lr not above 0, or lengths that differ.
    """
    if not rates or len(rates) != len(schedule):
        raise ValueError(f"{len(rates)} rates and {len(schedule)} of the schedule")
    if not base_lr > 0.0:
        raise ValueError(f"base_lr is {base_lr}: it must be above 0")
    if seed is not None:
        cuts = [r / s if s > 0.0 else 1.0 for r, s in zip(rates, schedule, strict=True)]
        cuts = shuffled(cuts, blocks=blocks, seed=seed)
        rates = [s * cut for s, cut in zip(schedule, cuts, strict=True)]
    return Replay(tuple(rate / base_lr for rate in rates))
