"""`homotopy report --watch`: the page again and again while the run goes on."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from homotopy_cli.errors import LogError

FAILURES = 3  # reads in a row that may fail, e.g. while a file system swaps the log, before we stop
QUIET = 60.0  # seconds without a new byte before we ask whether anybody still writes


def watch(
    logs: Sequence[Path],
    draw: Callable[[Sequence[Any]], None],
    *,
    every: float,
    quiet: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Draw whenever a log or its journal changed, until no run is running any more.

    Waits for logs that do not exist yet, and says so once: a watch may be started beside its run.

    Args:
        logs: Where the logs are, or will be.
        draw: Gets the logs as read. Called once at least.
        every: Seconds between two looks.
        quiet: Say nothing while waiting.
        sleep, clock: For tests.

    Returns:
        Whether Ctrl-C ended it. A run that was killed says "running" for ever: when nothing has
        been written for a minute and nobody holds the journal's lock, it counts as ended.

    Raises:
        LogError: A log cannot be read, at first or three times in a row; one that was waited
            for, three times in a row.
    """
    from homotopy_cli.runlog.locks import writer_is_gone
    from homotopy_cli.runlog.reader import read_log

    seen: tuple[Any, ...] | None = None
    changed, failures = clock(), 0
    open_logs = list(logs)  # those whose run goes on
    try:
        waited = _await(logs, lambda: sleep(every), quiet)
        while True:
            now = signature(logs)
            if now != seen:
                try:
                    runs = [read_log(path) for path in logs]
                except LogError:
                    failures += 1
                    if failures >= FAILURES or (seen is None and not waited):
                        raise
                else:
                    draw(runs)
                    seen, changed, failures = now, clock(), 0
                    states = zip(logs, runs, strict=True)
                    open_logs = [path for path, run in states if run.status == "running"]
                    if not open_logs:
                        return False
            elif clock() - changed > QUIET and all(map(writer_is_gone, open_logs)):
                print("nobody writes the log any more: the run was killed", file=sys.stderr)
                return False
            sleep(every)
    except KeyboardInterrupt:
        return True


def absent(logs: Sequence[Path]) -> list[Path]:
    """Those of which neither the log nor its journal exists."""
    return [path for path, state in zip(logs, _states(logs), strict=True) if not any(state)]


def _await(logs: Sequence[Path], pause: Callable[[], None], quiet: bool) -> bool:
    """Return once every log exists; whether that took any waiting."""
    missing = absent(logs)
    if missing and not quiet:
        names = ", ".join(map(str, missing))
        print(f"waiting for {names}: no such log yet; Ctrl-C ends it", file=sys.stderr)
    waited = bool(missing)
    while missing:
        pause()
        missing = absent(logs)
    return waited


def signature(logs: Sequence[Path]) -> tuple[Any, ...]:
    """Changes with every byte that is added to a log or its journal. Opens nothing."""
    return tuple(_states(logs))


def _states(logs: Sequence[Path]) -> list[tuple[Any, Any]]:
    """(log, journal) of each: what changes with every write, None for what is not there."""
    from homotopy_cli.runlog.journal import journal_path

    return [(_state(path), _state(journal_path(path))) for path in logs]


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns)
