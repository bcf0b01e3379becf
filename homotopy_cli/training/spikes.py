"""Spikes of the loss and the gradient norm, judged against the run's own recent past.

z_t = (x_t - mean) / sd over the last `window` values before t. A spike *event* needs
z > `threshold` on `persistence` consecutive steps or one value beyond `severe`; crossings
closer than `merge` steps belong to one event. A spike is an event, never an exception.

Source: window 128 and 6 sd are OLMo-core's defaults for short runs; three consecutive steps
are the practice reported for K2-V2. `severe` is our choice.
"""

import math
from collections import deque
from typing import Any


class SpikeDetector:
    """Online detector for one series; `update` says whether a new event starts at this value.

    Spiking values stay out of the window, so a plateau after a spike keeps being judged by
    the healthy past until `window` steps of it have been seen.
    """

    def __init__(
        self,
        *,
        window: int = 128,
        threshold: float = 6.0,
        severe: float = 20.0,
        persistence: int = 3,
        merge: int = 10,
        warmup: int = 32,
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
        self._above += 1
        if self._above >= 2 * self.persistence and self._since <= self.merge:
            self._keep(value)  # a new level, not a spike: let the window follow it
        fires = self._above >= self.persistence or score > self.severe
        new = fires and self._since > self.merge
        if fires:
            self._since = 0
        self.n_events += new
        return score if new else None

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
