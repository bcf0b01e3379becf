"""SIGINT and SIGTERM end a run after the step in hand, with everything saved."""

import signal
import threading
import time
from types import FrameType, TracebackType

HANDLED = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Context manager that turns the first SIGINT or SIGTERM into a request to stop.

    `signum` is None until a signal arrives. A second SIGINT raises KeyboardInterrupt at once,
    for the user who will not wait for the step to end; one within `copies` seconds is torchrun's
    copy of the first, and is ignored. Outside the main thread, where Python
    cannot install handlers, it never triggers. Former handlers come back at exit.
    """

    def __init__(self, *, copies: float = 0.0) -> None:
        self.signum: int | None = None
        self._copies, self._since = copies, 0.0
        self._former: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in HANDLED:
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signum is None:
            self._since = now
        elif signum == signal.SIGINT and now - self._since >= self._copies:
            raise KeyboardInterrupt
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM, 0 when nothing arrived."""
        return 0 if self.signum is None else 128 + self.signum

    @property
    def name(self) -> str:
        """SIGINT, SIGTERM, or an empty string."""
        return "" if self.signum is None else signal.Signals(self.signum).name
