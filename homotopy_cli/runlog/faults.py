"""Kill points for the crash tests: the one place that reads HOMOTOPY_FAULT.

`HOMOTOPY_FAULT=fold.replaced:3` ends the process with SIGKILL the third time that point is
reached, which is what a power button or an out-of-memory killer does to a real run. Without the
variable, `reach` costs one comparison.
"""

import os
import signal

POINTS = (
    "create.locked",  # journal exists, empty, locked
    "create.header",  # its header is written
    "journal.write",  # before a record's write()
    "journal.torn",  # after half of a record's bytes
    "journal.written",  # after the whole record
    "fold.image",  # image built in memory
    "fold.torn",  # half of the temporary file is written
    "fold.written",  # all of it, not yet synced
    "fold.synced",  # before os.replace
    "fold.replaced",  # after os.replace, before the folder is synced
    "journal.reset",  # before the journal is cut back to its header
    "journal.cut",  # after that
    "resume.folded",  # old journal folded, new one not yet in place
    "resume.replaced",  # new journal in place
    "close.verified",  # before the journal is deleted
    "close.removed",  # after that
)


def _plan(text: str) -> tuple[str, int]:
    point, _, count = text.partition(":")
    return point, int(count or 1)


_point, _remaining = _plan(os.environ.get("HOMOTOPY_FAULT", ""))


def reach(point: str) -> None:
    """End the process here if HOMOTOPY_FAULT asks for it."""
    if point == _point and due(point):
        die()


def die() -> None:
    """SIGKILL: no handler, no buffer flushed, no destructor run."""
    os.kill(os.getpid(), signal.SIGKILL)


def due(point: str) -> bool:
    """Count one visit of `point`; true on the visit that HOMOTOPY_FAULT asks for."""
    global _remaining
    if point != _point:
        return False
    _remaining -= 1
    return _remaining == 0
