"""Spikes of the loss and the gradient norm, while a run goes on, by the rule of crossings."""

import math
from collections import deque
from typing import Any

from homotopy_cli.crossings import (
    MERGE,
    PERSISTENCE,
    SEVERE,
    THRESHOLD,
    WARMUP,
    WINDOW,
    crossed,
)


class SpikeDetector:
    """Online detector for one series; `update` says whether a new event starts at this value.

    Spiking values stay out of the window, so a plateau after a spike keeps being judged by
    the healthy past until `window` steps of it have been seen.
    """

    def __init__(
        self,
        *,
        window: int = WINDOW,
        threshold: float = THRESHOLD,
        severe: float = SEVERE,
        persistence: int = PERSISTENCE,
        merge: int = MERGE,
        warmup: int = WARMUP,
        floor: float = -math.inf,
    ) -> None:
        self.threshold, self.severe = threshold, severe
        self.persistence, self.merge, self.warmup = persistence, merge, warmup
        self.floor = floor  # smaller values never count as spikes
        self.n_events = 0
        self._values: deque[float] = deque(maxlen=window)
        self._above = 0  # consecutive steps beyond the threshold
        self._since = merge + 1  # steps since the last crossing of an event

    def update(self, value: float) -> float | None:
        """The z-score when an event starts with this value, else None."""
        score = self.score(value)
        if score <= self.threshold or value < self.floor:
            self._keep(value)
            self._above = 0
            self._since += 1
            return None
        found = crossed(
            score,
            above=self._above,
            since=self._since,
            severe=self.severe,
            persistence=self.persistence,
            merge=self.merge,
        )
        self._above, self._since = found.above, found.since
        if found.settles:
            self._keep(value)
        self.n_events += found.begins
        return score if found.begins else None

    def _keep(self, value: float) -> None:
        """Into the window; one NaN or infinity there would leave it without a mean."""
        if math.isfinite(value):
            self._values.append(value)

    def score(self, value: float) -> float:
        """Deviations above the recent mean; 0 while fewer than `warmup` values are known."""
        if len(self._values) < self.warmup:
            return 0.0
        if not math.isfinite(value):
            return math.inf
        mean = math.fsum(self._values) / len(self._values)
        variance = math.fsum((x - mean) ** 2 for x in self._values) / len(self._values)
        spread = math.sqrt(variance) or abs(mean) * 1e-12 or 1e-300
        return (value - mean) / spread

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers; a resumed detector continues as if never stopped."""
        return {
            "values": list(self._values),
            "above": self._above,
            "since": self._since,
            "n_events": self.n_events,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._values.clear()
        self._values.extend(state["values"])
        self._above, self._since = int(state["above"]), int(state["since"])
        self.n_events = int(state["n_events"])
