"""Ctrl-C while measuring: the first one asks for what is there, the second one quits."""

import signal
import sys
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """Context in which one SIGINT only sets `asked()`; a second raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None

    def asked(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._asked

    def __enter__(self) -> "Interrupt":
        self._before = signal.signal(signal.SIGINT, self._pressed)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        print("stopping: what is measured so far follows; Ctrl-C again quits", file=sys.stderr)
