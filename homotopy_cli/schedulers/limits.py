"""What a measured curvature allows, over time: attack at once, release slowly, never open."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from homotopy_cli.schedulers import rules

Law = Callable[[float], float]  # scheduled rate -> factor
DEEP = 2.0  # a cut in the decay that is worth a probe over the budget; our choice
SHORT = 1.25  # the same where mode auto stays level; our choice


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
    doubted: float = 0.0  # the limit before a cut that waits for a second probe; 0 = none waits
    undoubted: float | None = None  # the average before the newest probe
    cap: float = math.inf  # the level at which a run relapsed: not exceeded again

    def measured(self, curvature: float, elapsed: int, *, fresh: bool = False) -> None:
        """Take a finite, signed curvature, `elapsed` steps after the last; `fresh` forgets it."""
        if not math.isfinite(curvature):
            raise ValueError(f"curvature is {curvature}: a failed probe must not reach a limit")
        keep = 0.0 if fresh else self.smoothing ** max(1, elapsed)
        before = self.undoubted if self.doubted else self.average
        self.undoubted = before
        self.average = rules.log_average(before, curvature, keep)
        self.curvature = rules.curvature_in_force(curvature, self.average)

    def goal(self, numerator: float) -> float:
        """The level the newest curvature allows, below `cap`; ∞ before the first and at λ <= 0."""
        if self.curvature is None:
            return self.cap
        return min(self.cap, rules.lr_ceiling(self.curvature, numerator))

    def attack(self, numerator: float) -> None:
        """Lower the limit to its goal if the goal is lower; only `advance` raises it."""
        goal = self.goal(numerator)
        self.rising = goal > self.limit
        self.limit = min(self.limit, goal)

    def attack_in_doubt(self, numerator: float, most: float) -> None:
        """Like attack, but a cut by more than the factor `most` waits for a second probe.

        One that refutes it takes the cut back. Nothing waits where there was no limit before.
        """
        before = self.doubted or self.limit
        if self.doubted:
            self.limit, self.doubted = before, 0.0
        elif before < math.inf and self.goal(numerator) < before / most:
            self.limit, self.doubted, self.rising = before / most, before, False
            return
        self.attack(numerator)

    def confirm(self, numerator: float) -> None:
        """There is no second probe: the doubted one counts in full."""
        if self.doubted:
            self.doubted = 0.0
            self.attack(numerator)

    def halve(self, rate: float, *, cap: float) -> None:
        """Half of the limit, or of the rate where that is smaller; never above `cap` again."""
        self.cap = min(self.cap, cap)
        self.limit = 0.5 * min(self.limit, rate)
        self.rising, self.doubted = False, 0.0

    def follow(self, numerator: float) -> None:
        """Be exactly at the goal, up or down."""
        self.limit, self.rising = self.goal(numerator), False

    def advance(self, numerator: float, floor: float, rate: float) -> None:
        """One optimizer step: down at once, or up by at most `rate`, starting from `floor`.

        In doubt the limit stays where it is.
        """
        if self.doubted:
            return
        goal = self.goal(numerator)
        self.limit = rules.released(max(self.limit, min(floor, goal)), goal, rate)
        self.rising = self.limit < goal

    def state_dict(self) -> dict[str, Any]:
        """What moves; the settings belong to the constructor."""
        return {name: getattr(self, name) for name in _MOVING}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what moves."""
        for name in _MOVING:
            setattr(self, name, state.get(name, getattr(self, name)))


_MOVING = ("limit", "average", "curvature", "rising", "doubted", "undoubted", "cap")


@dataclass
class Reach:
    """How much of its peak a schedule was let reach, from which its decay then starts.

    Under a ceiling alone a schedule with a peak far too high decays only once its own rate falls
    below the ceiling: never, where its last rate lies above. So the schedule is scaled down to the
    highest rate that the limits have allowed since its peak, and its shape holds from there on.
    The factor is no product of ceiling and decay, which would count the decay twice: sharpness
    rises as the rate falls. A schedule whose peak was allowed is left as it is.
    """

    peak: float = 0.0  # largest scheduled rate so far
    share: float = 1.0  # of it, allowed at or since the last step at the peak
    current: float = 0.0  # scheduled rate of the step to come
    highest: float = 0.0  # largest before; `peak` leaves out steps before the first measurement
    reached: float = 0.0  # largest rate that the limits allowed of it

    @property
    def rises(self) -> bool:
        """Whether the schedule asks for more than it ever did."""
        return self.current > self.highest * (1.0 + 1e-9) and self.highest > 0.0

    def of(self, schedule: float) -> float:
        """The factor on a scheduled rate; 1 at the peak and on the first way up to it."""
        return 1.0 if schedule >= self.peak * (1.0 - 1e-9) else self.share

    def is_cut(self, law: Law) -> bool:
        """Whether the limits of now hold the decay at less than 1/DEEP of what they had allowed."""
        return DEEP * self.share * self.peak < self.reached and DEEP * law(self.peak) > self.share

    def is_short(self, law: Law) -> bool:
        """Whether a rate that may go on lies by a factor above SHORT below what it could be."""
        return SHORT * self.current * law(self.current) < min(self.current, self.reached)

    def advance(self, law: Law, *, early: bool = False) -> None:
        """The step with the scheduled rate `current` was taken.

        Args:
            law: Rate -> factor, as it was.
            early: λ is no measure yet, and what it allowed is nothing to go back to.
        """
        factor = law(self.current)
        if not early:
            self.reached = max(self.reached, self.current * factor)
        if self.current >= self.peak * (1.0 - 1e-9):
            self.peak, self.share = max(self.peak, self.current), factor
        else:
            self.share = max(self.share, law(self.peak))

    def state_dict(self) -> dict[str, Any]:
        """What moves."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what moves."""
        self.peak, self.share, self.current = state["peak"], state["share"], state["current"]
        self.highest = state.get("highest", self.peak)  # older states have neither
        self.reached = state.get("reached", self.peak * self.share)
