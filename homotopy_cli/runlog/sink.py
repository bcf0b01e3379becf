"""The journal with patience: a full or failing disk delays records, it does not stop training."""

import time
from collections.abc import Callable

from homotopy_cli.runlog.journal import Journal

MAX_PENDING = 16 * 2**20  # bytes kept for the journal; beyond it, the next fold writes the rows
FIRST_RETRY, LAST_RETRY = 1.0, 60.0  # s; doubled at each failure
SYNC_SECONDS = 30.0  # what a power failure may cost


class Backoff:
    """When to try again: 1, 2, 4, ... 60 s after the last failure."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._delay = FIRST_RETRY
        self._at = 0.0
        self.error: OSError | None = None  # the last failure, None while all is well

    def failed(self, error: OSError) -> None:
        self.error = error
        self._at = self._clock() + self._delay
        self._delay = min(2 * self._delay, LAST_RETRY)

    def succeeded(self) -> None:
        self.error = None
        self._delay = FIRST_RETRY

    @property
    def due(self) -> bool:
        return self.error is None or self._clock() >= self._at


class Sink:
    """Append frames to the journal; what cannot be written is kept and retried.

    Args:
        journal: Open and locked.
        clock: Seconds, monotonic.
    """

    def __init__(self, journal: Journal, clock: Callable[[], float] = time.monotonic) -> None:
        self.journal = journal
        self.backoff = Backoff(clock)
        self.overflowed = False  # pending frames were dropped: only a fold can save their rows
        self._pending = bytearray()
        self._clock = clock
        self._synced = clock()

    @property
    def failing(self) -> bool:
        return self.backoff.error is not None

    def put(self, data: bytes) -> None:
        """Write one or more whole frames, or keep them; never raises for the disk's sake."""
        if self.failing:
            self._keep(data)
            self.retry()
            return
        try:
            self.journal.append(data)
            if self._clock() - self._synced > SYNC_SECONDS:  # 5 ms, so not at each record
                self.journal.sync()
                self._synced = self._clock()
        except OSError as error:
            self._keep(data)
            self.backoff.failed(error)

    def retry(self, *, now: bool = False) -> None:
        """Write what is pending, if it is time (or `now`)."""
        if not self.failing or self.overflowed or not (now or self.backoff.due):
            return
        try:
            self.journal.append(bytes(self._pending))
        except OSError as error:
            self.backoff.failed(error)
        else:
            self._pending.clear()
            self.backoff.succeeded()

    def folded(self) -> None:
        """Every record is in run.h5 now: start the journal afresh.

        Raises:
            OSError: The journal cannot be cut; its records stay valid.
        """
        self.journal.reset()
        self._pending.clear()
        self.overflowed = False
        self.backoff.succeeded()
        self._synced = self._clock()

    def _keep(self, data: bytes) -> None:
        if self.overflowed or len(self._pending) + len(data) > MAX_PENDING:
            self.overflowed = True
            self._pending.clear()
        else:
            self._pending += data
