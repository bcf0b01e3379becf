"""What else lies in a sweep's folder: runs of the same recipe belong in its table and page."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homotopy_cli.cli.sweep import Plan, state_of
from homotopy_cli.errors import HomotopyError

if TYPE_CHECKING:
    from homotopy_cli.recipe.grid import Cell

SHOWN = 3  # names of logs in a sentence


def earlier_runs(
    plans: Sequence[Plan], folder: Path, load: Callable[["Cell"], Any]
) -> tuple[list[Plan], list[str]]:
    """Runs of earlier, larger sweeps of this recipe and these keys, and other logs' names.

    A log belongs to the sweep if its name is a cell's and its recipe is what that cell means.

    Args:
        plans: The runs that were asked for.
        folder: Their logs' folder.
        load: Cell -> LoadedRecipe.
    """
    planned = {plan.log.name for plan in plans}
    seen = [plan.loaded.recipe for plan in plans]
    found, others = [], []
    for log in sorted(folder.glob("*.h5")) if folder.is_dir() else []:
        if log.name in planned:
            continue
        plan = _plan_of(log, plans[0].cell, load)
        if plan is None:
            others.append(log.stem)
        elif plan.loaded.recipe not in seen:  # else the same run by another name
            seen.append(plan.loaded.recipe)
            found.append(plan)
    return found, others


def refuse_nothing_to_resume(plans: Sequence[Plan], folder: Path) -> None:
    """Raise HomotopyError where --resume meets other runs than those that were asked for."""
    if any(plan.log.exists() for plan in plans):
        return
    there = sorted(log.stem for log in folder.glob("*.h5")) if folder.is_dir() else []
    if there:
        raise HomotopyError(
            f"--resume: none of these {len(plans)} runs is in {folder}, which holds "
            f"{listed(there)}",
            hint="the --sweep and --seeds that made them, or leave --resume out",
        )


def listed(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _plan_of(log: Path, like: "Cell", load: Callable[["Cell"], Any]) -> Plan | None:
    """The run that a log's name stands for, if it is one over the keys of `like`."""
    from homotopy_cli.recipe.grid import Cell, short_names

    keys = [key for key, _ in like.settings]
    parts = [f"{re.escape(name)}=(.+?)" for name in short_names(keys).values()]
    seed = "(?:_seed=(-?[0-9]+))?" if parts else "seed=(-?[0-9]+)"
    matched = re.fullmatch("_".join(parts) + seed, log.stem)
    if matched is None:
        return None
    *values, number = matched.groups()
    settings = tuple(zip(keys, values, strict=True))
    cell = Cell(log.stem, settings, None if number is None else int(number))
    try:
        loaded = load(cell)
        state = state_of(log, loaded)
    except HomotopyError:  # no value of that key, or a log of another recipe
        return None
    return None if state == "restart" else Plan(cell, loaded, log, state)
