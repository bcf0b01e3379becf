"""What a measured curvature allows, over time: attack at once, release slowly, never open."""

import math
from dataclasses import dataclass
from typing import Any

from homotopy_cli.schedulers import rules


@dataclass
class Limit:
    """One law's limit: the level at which its ratio is 1.

    For the edge it is a learning rate, target·c/λ; for κ a factor, curvature_target/κ. The
    numerator may change at every step (bias correction of Adam), the curvature at a probe.
    """

    smoothing: float  # per optimizer step: share of the average's log that one step keeps
    limit: float = math.inf
    average: float | None = None  # log-space average of the curvature
    curvature: float | None = None  # in force: max(newest, average); None before the first
    rising: bool = False  # below its goal, on the way up

    def measured(self, curvature: float, elapsed: int, *, fresh: bool = False) -> None:
        """Take a finite, signed curvature, `elapsed` steps after the last; `fresh` forgets it."""
        if not math.isfinite(curvature):
            raise ValueError(f"curvature is {curvature}: a failed probe must not reach a limit")
        keep = 0.0 if fresh else self.smoothing ** max(1, elapsed)
        self.average = rules.log_average(self.average, curvature, keep)
        self.curvature = rules.curvature_in_force(curvature, self.average)

    def goal(self, numerator: float) -> float:
        """The level the newest curvature allows; ∞ before the first and where λ <= 0."""
        if self.curvature is None:
            return math.inf
        return rules.lr_ceiling(self.curvature, numerator)

    def attack(self, numerator: float) -> None:
        """Lower the limit to its goal if the goal is lower. No rise: a probe is not a step."""
        goal = self.goal(numerator)
        self.rising = goal > self.limit
        self.limit = min(self.limit, goal)

    def follow(self, numerator: float) -> None:
        """Be exactly at the goal, up or down."""
        self.limit, self.rising = self.goal(numerator), False

    def advance(self, numerator: float, floor: float, rate: float) -> None:
        """One optimizer step: down at once, or up by at most `rate`, starting from `floor`."""
        goal = self.goal(numerator)
        self.limit = rules.released(max(self.limit, min(floor, goal)), goal, rate)
        self.rising = self.limit < goal

    def state_dict(self) -> dict[str, Any]:
        """What moves; the settings belong to the constructor."""
        return {name: getattr(self, name) for name in _MOVING}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what moves."""
        for name in _MOVING:
            setattr(self, name, state[name])


_MOVING = ("limit", "average", "curvature", "rising")
