"""Ranks agree before they measure: the same questions, the same start vectors.

Every rank walks the same path of products, stops and fallbacks. What could part them is asked
for once, at the start: two ranks with other settings would wait for each other for ever, and two
with other start vectors would add products with different vectors.
"""

from collections.abc import Mapping
from typing import Any

from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.warm import WarmStarts
from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.reducer import Reducer

_SAME = 1e-6  # sums of unit start vectors: rounding stays far below, another vector far above


def agree(
    reducer: Reducer,
    *,
    config: EstimatorConfig,
    seed: int,
    warm: WarmStarts | None,
    asked: Mapping[str, Any],
    watched: bool,
) -> bool:
    """Return whether any rank may stop the estimate early, so that all must ask about it.

    Args:
        reducer: The ranks.
        config: Effort.
        seed: Of the estimate's random vectors.
        warm: Start vectors.
        asked: What else must be the same on all ranks, by the name an error gives it.
        watched: This rank has a time limit or a stop of its own.

    Raises:
        ProblemError: The ranks were asked for different things.
    """
    if reducer.size == 1:
        return watched
    mine = {"settings": repr(config), "seed": seed} | {k: repr(v) for k, v in asked.items()}
    sums = {} if warm is None else warm.sums()
    answers = reducer.together(lambda: (mine, sums, watched))
    first, first_sums, _ = answers[0]
    for rank, (theirs, their_sums, _) in enumerate(answers):
        parted = [name for name in first if theirs[name] != first[name]]
        if first_sums.keys() != their_sums.keys() or any(
            abs(first_sums[key] - their_sums[key]) > _SAME for key in first_sums
        ):
            parted.append("start vectors")
        if parted:
            raise ProblemError(
                f"rank {rank} and rank 0 were asked for different estimates: "
                f"{', '.join(parted)} differ",
                hint="make the same calls with the same settings and saved state on every rank",
            )
    return any(flag for _, _, flag in answers)


def blocks_asked(partition: Partition | None) -> tuple[Any, ...]:
    """A partition as plain values."""
    return () if partition is None else tuple((b.name, b.params) for b in partition.blocks)
