"""What a reader of the log must know, kept until the loop takes it."""

import sys
from typing import Any, Literal

from homotopy_cli.records import EventRecord

CAPACITY = 1000  # events kept when nobody drains them; the oldest go first


class EventLog:
    """A bounded queue of EventRecords."""

    def __init__(self) -> None:
        self.pending: list[EventRecord] = []

    def add(
        self, step: int, level: Literal["info", "warning", "error"], code: str, message: str
    ) -> None:
        """Append one event."""
        self.pending.append(EventRecord(step, level, code, message))
        del self.pending[:-CAPACITY]

    def drain(self) -> list[EventRecord]:
        """Return what is pending and forget it."""
        taken, self.pending = self.pending, []
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Pending events as plain tuples."""
        return {"pending": [(e.step, e.level, e.code, e.message) for e in self.pending]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore pending events; interned, so that a checkpoint has the same bytes again."""
        self.pending = [
            EventRecord(step, sys.intern(level), sys.intern(code), message)
            for step, level, code, message in state["pending"]
        ]
