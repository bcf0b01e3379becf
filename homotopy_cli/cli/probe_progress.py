"""What a running probe shows on stderr: the phase, products done, an ETA; nothing when piped."""

import os
import sys
from types import TracebackType
from typing import Any


class ProbeProgress:
    """Callable `(phase, done, total)`; draws only on a terminal, outside CI, unless quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self._live = not quiet and sys.stderr.isatty() and not os.environ.get("CI")
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "ProbeProgress":
        if self._live:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            from homotopy_cli.cli.render import console

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("products"),
                TimeRemainingColumn(),
                console=console(stderr=True),
                transient=True,
            )
            self._bar.start()
        return self

    def __call__(self, phase: str, done: int, total: int) -> None:
        if self._bar is None:
            return
        if phase not in self._tasks:
            self._tasks[phase] = self._bar.add_task(phase, total=total)
        self._bar.update(self._tasks[phase], completed=done, total=max(total, done))

    def layer(self, block: Any) -> None:
        """One row of the per-layer table, above the bars, while the others are measured."""
        if self._bar is None:
            return
        from homotopy_cli.cli.render import above, block_error, short

        self._bar.console.print(
            f"  {block.name}: λ_max {above(block.lambda_max, block.residual)} "
            f"{block_error(block)} κ {short(block.kappa)}",
            markup=False,
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
