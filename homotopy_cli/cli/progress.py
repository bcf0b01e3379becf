"""What a running `homotopy train` shows on stderr.

On a terminal one live line; piped or in CI one plain line per ten seconds and a last one; with
--quiet only warnings. Results never pass through here.
"""

import os
import sys
import time
from typing import Any

PLAIN_SECONDS = 10.0  # between two lines when nobody watches
BAR = 16  # columns of the bar of the live line, where the terminal has WIDE
WIDE = 130  # columns
LIVE_SECONDS = 0.1  # between two redraws: the eye's limit, and a negligible cost


def number(value: float | None) -> str:
    """Three significant digits, or a dash for what was not measured."""
    return "-" if value is None or value != value else f"{value:.3g}"


def duration(seconds: float) -> str:
    """`75` -> `1:15`; an hour and more with hours."""
    if seconds != seconds or seconds == float("inf"):
        return "-"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def facts(view: Any, evaluation: str = "", *, room: int | None = None) -> str:
    """The numbers of one StepView on one line.

    Args:
        evaluation: Of the newest held-out loss, or "".
        room: Columns there are; what matters least is left out, nothing is cut short.
    """
    parts = {
        "loss": f"loss {view.loss:.4g}",
        "lr": f"lr {view.lr:.3g}",
        "λmax": _known("λmax", view.lambda_max),
        "κ": _known("κ", view.kappa),
        "edge": f"edge {number(view.edge_ratio)}",
        "probing": f"probing {view.probe_share:.1%}",
        "eval": evaluation,
    }
    for least in ("κ", "probing", "λmax", "eval", "edge", "lr"):
        line = "  ".join(part for part in parts.values() if part)
        if room is None or len(line) <= room:
            return line
        parts[least] = ""
    return parts["loss"]


def _known(name: str, value: float | None) -> str:
    """`name value`; nothing where the newest probe did not measure it."""
    return "" if value is None or value != value else f"{name} {number(value)}"


def spoken(record: Any) -> str:
    """What an event says on stderr at once: a warning, how a run begins or goes on; else ""."""
    if record.level == "warning":
        return f"warning: step {record.step}: {record.message}"
    return f"note: {record.message}" if record.code in ("RESUMING", "OPENING") else ""


class PlainProgress:
    """One line per ten seconds; the observer of pipes, files and CI."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._shown = -float("inf")  # the first step says that the run is alive
        self._last: Any = None
        self._evaluation = ""

    def start(self, total: int, first: int) -> None:
        """Nothing yet: the first step speaks."""

    def step(self, view: Any) -> None:
        """Print when ten seconds have gone by since the last line."""
        self._last = view
        now = time.monotonic()
        if not self._quiet and now - self._shown >= PLAIN_SECONDS:
            self._shown = now
            self._print(view)

    def evaluation(self, record: Any) -> None:
        """Keep the newest held-out loss for the next line."""
        self._evaluation = f"eval {record.values['eval_loss']:.4g}"

    def event(self, record: Any) -> None:
        """Warnings at once, also under --quiet; an error ends the run and is said then."""
        if self._quiet and record.code == "OPENING":
            return
        if line := spoken(record):
            print(line, file=sys.stderr, flush=True)

    def stop(self) -> None:
        """The last step, if it was not printed yet."""
        if not self._quiet and self._last is not None:
            self._print(self._last)
            self._last = None

    def _print(self, view: Any) -> None:
        numbers = facts(view, self._evaluation)
        text = f"step {view.step + 1}/{view.total}  {numbers}  eta {duration(view.eta)}"
        print(text, file=sys.stderr, flush=True)


class LiveProgress:
    """One line that redraws itself, on a terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        from homotopy_cli.cli.render import console

        target = console(stderr=True)
        bar = (BarColumn(bar_width=BAR),) if target.width >= WIDE else ()
        self._taken = (BAR + 1 if bar else 0) + len(" eta 0:00:00 ")
        self._bar = Progress(
            MofNCompleteColumn(),
            *bar,
            TextColumn("{task.fields[facts]}"),
            TextColumn("eta {task.fields[eta]}", style="dim"),
            console=target,
            refresh_per_second=8,
            transient=True,
        )
        self._task: Any = None
        self._shown = -float("inf")
        self._evaluation = ""

    def start(self, total: int, first: int) -> None:
        """Show the bar at the first step to be made."""
        self._taken += 2 * len(str(total)) + 1
        self._task = self._bar.add_task("train", total=total, completed=first, facts="", eta="-")
        self._bar.start()

    def step(self, view: Any) -> None:
        """Update the line, at most ten times a second."""
        now = time.monotonic()
        if now - self._shown < LIVE_SECONDS and view.step + 1 < view.total:
            return
        self._shown = now
        text = facts(view, self._evaluation, room=self._bar.console.width - self._taken)
        self._bar.update(self._task, completed=view.step + 1, facts=text, eta=duration(view.eta))

    def evaluation(self, record: Any) -> None:
        """Show the newest held-out loss from now on."""
        self._evaluation = f"eval {record.values['eval_loss']:.4g}"

    def event(self, record: Any) -> None:
        """Warnings above the line; an error ends the run and is said then."""
        if line := spoken(record):
            self._bar.console.print(line, markup=False)

    def stop(self) -> None:
        """Remove the line."""
        self._bar.stop()


def make_progress(*, quiet: bool) -> PlainProgress | LiveProgress:
    """The observer that fits stderr: live only on a terminal outside CI."""
    if quiet or not sys.stderr.isatty() or os.environ.get("CI"):
        return PlainProgress(quiet=quiet)
    return LiveProgress()
