"""`homotopy train --sweep --seeds`: a grid of runs, `--jobs` processes at a time, then one page.

The same command continues an interrupted sweep: finished runs are left alone, a run that was cut
off goes on from its checkpoint.
"""

import json
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from homotopy_cli.cli.progress import duration
from homotopy_cli.cli.sweep_worker import Ending, Worker
from homotopy_cli.errors import INTERRUPTED, HomotopyError, TrainingDiverged

if TYPE_CHECKING:
    from homotopy_cli.recipe.grid import Cell

DIVERGED = TrainingDiverged.exit_code  # a result here, no failure
PAGE, TABLE = "sweep.html", "sweep.csv"


@dataclass(frozen=True)
class Plan:
    """One run of the sweep and what there is of it."""

    cell: "Cell"
    loaded: Any  # LoadedRecipe
    log: Path
    state: str  # "new", "done", "resume" or "restart"


def run_sweep(
    plans: Sequence[Plan],
    folder: Path,
    recipe: Path | None,
    *,
    jobs: int,
    quiet: bool,
    earlier: Sequence[Plan] = (),
) -> int:
    """Run what is not done yet, `jobs` at a time; write page and table of all, `earlier` too.

    A sweep whose first run to end is refused, for its data or its model, ends there.

    Raises:
        HomotopyError: The folder cannot be made, or page or table not written.
    """
    there = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HomotopyError(
            f"--out {folder}: cannot be made: {error.strerror or error}",
            hint="--out a folder that you can write to",
        ) from error
    left = [plan for plan in plans if plan.state != "done"]
    if not quiet:
        done = len(plans) - len(left)
        print(f"{len(plans)} runs, {done} of them there already; logs in {folder}", file=sys.stderr)
    runner = _Runner(recipe, len(left), quiet)
    code = runner.run(left, jobs)
    _publish([*plans, *earlier], folder)
    if not there and not any(folder.iterdir()):
        folder.rmdir()
    if runner.stopped:
        print("interrupted: the same command goes on where this one stopped", file=sys.stderr)
    return code


def check_sweep(plans: Sequence[Plan], recipe: Path | None) -> int:
    """`--sweep --check`: the first run is built and makes one step; nothing is written."""
    worker = Worker()
    try:
        first = replace(plans[0], state="new")
        ending = worker.run([*_arguments(first, recipe), "--check"])
    finally:
        worker.close()
    if ending.code:
        print(ending.err, end="", file=sys.stderr)
        return ending.code
    print(f"{ending.out}check: {len(plans)} valid recipes, of which the first was tried")
    return 0


def plan_sweep(
    cells: "Sequence[Cell]",
    load: Any,
    folder: Path,
    *,
    overwrite: bool,
) -> list[Plan]:
    """Validate every cell's recipe and look at what the folder holds of it.

    Args:
        load: Cell -> LoadedRecipe.
        overwrite: Start every run afresh.

    Raises:
        HomotopyError: A recipe that is not valid, or a log in the folder of another recipe.
    """
    plans = []
    for cell in cells:
        loaded = load(cell)
        log = folder / f"{cell.name}.h5"
        plans.append(Plan(cell, loaded, log, "restart" if overwrite else state_of(log, loaded)))
    return plans


def state_of(log: Path, loaded: Any) -> str:
    from homotopy_cli.runlog.reader import read_log

    if not log.exists():
        return "new"
    try:
        found = read_log(log)
    except HomotopyError:
        return "restart"
    stored = found.provenance.get("recipe_resolved")
    stored = json.loads(stored) if isinstance(stored, str) else stored
    wanted = json.loads(json.dumps(loaded.recipe.resolved()))
    if stored and stored != wanted:
        keys = sorted(k for k in {*stored, *wanted} if stored.get(k) != wanted.get(k))
        raise HomotopyError(
            f"{log}: is of another recipe (they differ in {', '.join(keys[:4])})",
            hint="another --out FOLDER, or --overwrite",
        )
    if found.status in ("finished", "diverged"):
        return "done"
    return "resume" if log.with_suffix(".pt").exists() else "restart"


class _Runner:
    """Hands the runs to worker processes and says how each ended."""

    def __init__(self, recipe: Path | None, total: int, quiet: bool) -> None:
        self.recipe, self.total, self.quiet = recipe, total, quiet
        self.n = 0
        self.stopped = self.refused = False
        self.workers: list[Worker] = []

    def run(self, plans: Sequence[Plan], jobs: int) -> int:
        """The worst exit code: 0, that of a failed run, or 130."""
        code = 0
        self.workers = [Worker() for _ in range(min(jobs, len(plans)))]
        free: SimpleQueue[Worker] = SimpleQueue()
        for worker in self.workers:
            free.put(worker)
        before = signal.signal(signal.SIGINT, self._stop)
        try:
            with ThreadPoolExecutor(jobs) as pool:
                for future in as_completed([pool.submit(self._one, p, free) for p in plans]):
                    code = max(code, future.result())
        finally:
            signal.signal(signal.SIGINT, before)
            for worker in self.workers:
                worker.close()
        return INTERRUPTED if self.stopped else code

    def _stop(self, *_: Any) -> None:
        """Let every run finish its step and save."""
        self.stopped = True
        for worker in self.workers:
            worker.interrupt()

    def _one(self, plan: Plan, free: "SimpleQueue[Worker]") -> int:
        worker = free.get()
        try:
            if self.stopped or self.refused:
                return 0
            started = time.monotonic()
            ending = worker.run(_arguments(plan, self.recipe))
            self.refused |= not self.n and ending.code == HomotopyError.exit_code
        finally:
            free.put(worker)
        self.n += 1
        self._say(plan, ending, time.monotonic() - started)
        return 0 if ending.code in (0, DIVERGED, INTERRUPTED) else abs(ending.code)

    def _say(self, plan: Plan, ending: Ending, seconds: float) -> None:
        code = ending.code
        words = {0: "finished", DIVERGED: "diverged", INTERRUPTED: "interrupted"}.get(
            code, f"exit {code}"
        )
        if not self.quiet or code not in (0, DIVERGED):
            held = next((x for x in ending.out.splitlines() if x.startswith("held out:")), "")
            line = f"[{self.n}/{self.total}] {plan.cell.name}: {words} in {duration(seconds)}"
            print(line + (f"; {held}" if held else ""), file=sys.stderr, flush=True)
        if code not in (0, DIVERGED, INTERRUPTED):
            print(
                "".join(f"    {x}\n" for x in ending.err.splitlines()[-4:]), end="", file=sys.stderr
            )


def _arguments(plan: Plan, recipe: Path | None) -> list[str]:
    arguments = ["train"]
    arguments += [str(recipe)] if recipe is not None else []
    arguments += ["--out", str(plan.log), "--no-report", "--quiet"]
    arguments += {"resume": ["--resume"], "restart": ["--overwrite"]}.get(plan.state, [])
    if plan.loaded.profile is not None:
        arguments += ["--profile", plan.loaded.profile]
    for override in plan.loaded.overrides:
        arguments += ["--set", override]
    return arguments


def _publish(plans: Sequence[Plan], folder: Path) -> None:
    """sweep.csv, sweep.html and the table on stdout, of the runs that have a log."""
    from homotopy_cli.cli.sweep_table import csv_text, metrics_of, print_rows
    from homotopy_cli.cli.writing import write_all, write_text
    from homotopy_cli.report.page import render
    from homotopy_cli.runlog.reader import read_log

    logs, rows = [], []
    for plan in plans:
        try:
            log = read_log(plan.log)
        except HomotopyError:
            continue
        logs.append(log)
        rows.append((plan, metrics_of(log)))
    if not rows:
        return
    table, page = csv_text(rows), render(logs, title=f"{folder.name}: {len(logs)} runs")
    unwritten = write_all(
        [lambda: write_text(folder / TABLE, table), lambda: write_text(folder / PAGE, page)]
    )
    print_rows(rows)
    if unwritten is not None:
        raise unwritten
    print(f"\ntable       {folder / TABLE}\nreport      {folder / PAGE}")
