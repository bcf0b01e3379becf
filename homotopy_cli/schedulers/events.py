"""What a reader of the log must know, kept until the loop takes it."""

import sys
from typing import Any

from homotopy_cli.records import EventLevel, EventRecord

CAPACITY = 1000  # events kept when nobody drains them; the oldest go first


class EventLog:
    """A bounded queue of EventRecords.

    Attributes:
        pending: What was not drained yet.
        lasting: Code of what holds now -> how often it was seen.
        heard: Whether anybody has ever drained it.
    """

    def __init__(self) -> None:
        self.heard = False
        self.pending: list[EventRecord] = []
        self.lasting: dict[str, int] = {}

    def add(self, step: int, level: EventLevel, code: str, message: str) -> None:
        """Append one event."""
        self.pending.append(EventRecord(step, level, code, message))
        del self.pending[:-CAPACITY]

    def add_if_new(
        self,
        holds: bool,
        step: int,
        level: EventLevel,
        code: str,
        message: str,
    ) -> None:
        """An event where something begins, and one with the count where it ends after several.

        Args:
            holds: Whether it does, this time.
            step, level, code, message: Of the event where it begins.
        """
        n = self.lasting.pop(code, 0)
        if holds:
            self.lasting[code] = n + 1
        if holds and n == 0:
            self.add(step, level, code, message)
        elif not holds and n > 1:
            self.add(step, level, code, f"over: it was seen {n} times in a row")

    def drain(self) -> list[EventRecord]:
        """Return what is pending and forget it."""
        self.heard = True
        taken, self.pending = self.pending, []
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Pending events as plain tuples, and what lasts."""
        pending = [(e.step, e.level, e.code, e.message) for e in self.pending]
        return {"pending": pending, "lasting": dict(self.lasting)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore pending events; interned, so that a checkpoint has the same bytes again."""
        self.pending = [
            EventRecord(step, sys.intern(level), sys.intern(code), message)
            for step, level, code, message in state["pending"]
        ]
        self.lasting = {sys.intern(k): n for k, n in state.get("lasting", {}).items()}
