"""run.pt and run.h5 of an interrupted run -> where to go on, or why not."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from homotopy_cli.errors import CheckpointError, RecipeError
from homotopy_cli.recipe.load import recipe_from_resolved
from homotopy_cli.runlog.load_journal import read_journal
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.checkpoint import load_checkpoint
from homotopy_cli.training.outputs import RunPaths
from homotopy_cli.training.ranks import Ranks

# Settings that may differ between attempts: they change how long, how often and where, not
# what a step computes; another device rounds differently, and the log says so.
FREE = (
    "steps",
    "out",
    "name",
    "eval_every",
    "eval_batches",
    "checkpoint_every",
    "threads",
    "device",
    "keep_best",
    "early_stop",
    "max_seconds",
    "parallel",
    "compile",
    "activation_checkpointing",
    "profiles",
)


@dataclass(frozen=True)
class StartPoint:
    """Where an attempt begins. `checkpoint` is None for a start from the seed."""

    step: int = 0
    checkpoint: Mapping[str, Any] | None = None
    continues_log: bool = False
    changes: tuple[str, ...] = ()  # `key: old -> new` of FREE settings that differ
    wall_time: float = 0.0  # seconds that the kept rows took
    missing_rows: int = 0  # of the kept steps, rows that the log does not hold
    repeated_rows: int = 0  # rows that the log holds of steps that are taken again

    def words(self, total: int) -> str:
        """Where a resumed run goes on, and what it does a second time."""
        said = f"resuming at step {self.step} of {total}"
        if not self.repeated_rows:
            return said
        n = self.repeated_rows
        last = f"the last checkpoint is of step {self.step}"
        why = "no checkpoint was saved" if self.checkpoint is None else last
        steps = "logged step is" if n == 1 else "logged steps are"
        return f"{said}; {n} {steps} taken again, for {why}"


def find_start(paths: RunPaths, recipe: Mapping[str, Any]) -> StartPoint:
    """The point at which `--resume` continues.

    Without any file of an earlier run: step 0. With a log and no checkpoint (killed before the
    first one): step 0 again, as a new attempt in the same log. Else the checkpoint's step.

    Raises:
        LogError: The log cannot be read.
        CheckpointError: The checkpoint is unreadable, has lost its log, or belongs to a recipe
            that computes other steps; the hint holds the settings that would fit.
    """
    # A journal without a header is a start that was killed at once.
    has_log = paths.log.exists() or read_journal(paths.log, []) is not None
    if not paths.checkpoint.exists():
        rows = len(read_log(paths.log).step) if has_log else 0
        return StartPoint(continues_log=has_log, repeated_rows=rows)
    content = load_checkpoint(paths.checkpoint)
    if not has_log:
        raise CheckpointError(
            f"{paths.log}: is missing, but {paths.checkpoint.name} is at step {content['step']}",
            hint="bring the log back beside it, or start again with --overwrite",
        )
    before = _with_defaults(json.loads(content["recipe"]))
    changes = list(differences(before, recipe))
    wrong = [change for change in changes if change[0].split(".")[0] not in FREE]
    if wrong:
        key, old, new = wrong[0]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise CheckpointError(
            f"{paths.checkpoint}: was trained with {key} = {_shown(old)}, "
            f"the recipe now says {_shown(new)}{more}",
            hint=_settings(wrong) + "to go on as before, or --overwrite to start again",
        )
    words = tuple(f"{key}: {_shown(old)} -> {_shown(new)}" for key, old, new in changes)
    step = int(content["step"])
    log = read_log(paths.log)
    kept = log.step < step
    times = log.steps["wall_time"][kept]
    times = times[np.isfinite(times)]
    wall_time = float(times.max()) if len(times) else 0.0
    n_kept = int(np.count_nonzero(kept))
    return StartPoint(
        step,
        content,
        True,
        words,
        wall_time,
        missing_rows=step - n_kept,
        repeated_rows=len(log.step) - n_kept,
    )


def _with_defaults(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stored recipe with the settings that came after it at their defaults."""
    try:
        return recipe_from_resolved(stored).resolved()
    except RecipeError:
        return stored


def start_together(paths: RunPaths, recipe: Mapping[str, Any], ranks: Ranks) -> StartPoint:
    """`find_start` by rank 0, whose verdict holds for all; each rank reads the checkpoint.

    Raises:
        CheckpointError: As `find_start`, or a rank does not see the file.
    """
    found: list[StartPoint] = []

    def look() -> StartPoint:
        found.append(find_start(paths, recipe))
        return replace(found[0], checkpoint=None if found[0].checkpoint is None else {})

    point = ranks.on_main(look)
    if point.checkpoint is None:
        return point
    return ranks.together(
        lambda: found[0] if found else replace(point, checkpoint=load_checkpoint(paths.checkpoint))
    )


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, old, new) for every leaf that differs; None where a side lacks it."""
    for key in [*before, *(key for key in now if key not in before)]:
        old, new, name = before.get(key), now.get(key), prefix + str(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, name + ".")
        elif old != new:
            yield name, old, new


def _shown(value: Any) -> str:
    return "unset" if value is None else json.dumps(value)


def _settings(changes: list[tuple[str, Any, Any]]) -> str:
    """`--set a.b=1 --set c=2 ` that undo the changes, where a --set can."""
    undo = [f"--set {key}={_shown(old)}" for key, old, _ in changes if old is not None]
    return " ".join(undo) + " " if undo else "the recipe of that run "
