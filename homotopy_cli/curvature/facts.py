"""What one rank's graph says of the loss, and what all ranks' graphs say together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """What one rank's graph shows, or all ranks' together (`merged`).

    Ranks decide on the merged facts and on vectors summed over ranks only, so all decide alike.
    """

    loss: float  # this rank's share of L, weighted; or L
    reached: frozenset[str]  # parameters with a gradient
    constant: frozenset[str]  # parameters whose gradient does not depend on θ
    dead_end: bool  # an operation refuses a second derivative
    kinked: tuple[str, ...]
    custom: tuple[str, ...]


def merged(facts: Sequence[Facts]) -> Facts:
    """Return the facts of the sum over ranks: reached on any, constant on all."""
    losses = [f.loss for f in facts]
    return Facts(
        loss=math.fsum(losses) if all(map(math.isfinite, losses)) else sum(losses),
        reached=frozenset().union(*(f.reached for f in facts)),
        constant=frozenset.intersection(*(f.constant for f in facts)),
        dead_end=any(f.dead_end for f in facts),
        kinked=tuple(sorted({name for f in facts for name in f.kinked})),
        custom=tuple(sorted({name for f in facts for name in f.custom})),
    )
