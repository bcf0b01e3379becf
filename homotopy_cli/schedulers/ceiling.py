"""Measured curvature -> one factor on the schedule, with the reason for it."""

import math
from typing import Any

from torch.optim import Optimizer

from homotopy_cli.schedulers import rules, thresholds
from homotopy_cli.schedulers.limits import Limit
from homotopy_cli.schedulers.settings import GuardSettings

SCHEDULE, CEILING, RELEASE, FLOOR, HELD, PER_GROUP = range(6)  # codes of `reason`
KAPPA_TARGET = 1e4  # 1/loss, the founding default


class Ceiling:
    """The two laws, edge of stability and founding κ, as one factor in [floor, 1].

    The factor is 1/(1 + α·max(0, ratio - 1)) of the larger ratio: ρ/target for the edge,
    κ/curvature_target for κ. The edge law is on unless the signal is "kappa"; the κ law is on
    where the signal is "kappa" or a curvature_target is given.

    Args:
        optimizer: Its groups and step count give the threshold c.
        settings: The numbers.
        signal: Resolved: not "auto".
        n_before: Optimizer steps taken before step 0 here.
        gentle: Release slowly from the first probe on: the ceiling is the warmup. False where
            the schedule brings its own, which a release from the first, extreme curvature
            would delay.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        settings: GuardSettings,
        *,
        signal: str,
        n_before: int,
        gentle: bool = True,
    ) -> None:
        self.optimizer = optimizer
        self.settings = settings
        self.family = thresholds.optimizer_family(optimizer)
        self.by_edge = signal != "kappa"
        default = None if self.by_edge else KAPPA_TARGET
        self.target = settings.target  # edge ratio to stay under; a subclass may learn it
        self.kappa_target = settings.curvature_target or default  # likewise, 1/loss
        self.edge = Limit(settings.smoothing, settings.release)
        self.kappa = Limit(settings.smoothing, settings.release)
        self.n_before = n_before
        self.gentle = gentle
        self.held = False  # probes failed before any succeeded: the floor holds
        self.reason = SCHEDULE
        self.advanced_to = 0  # optimizer step up to which the limits were released

    def threshold(self, step: int) -> float:
        """c for optimizer step `step` (0-based, since construction), dimensionless."""
        at = self.n_before + step + 1
        return thresholds.stability_threshold(self.optimizer, at, family=self.family)

    @property
    def measured(self) -> bool:
        """Whether a probe has succeeded yet."""
        return self.edge.curvature is not None

    @property
    def level(self) -> float:
        """The largest rate the edge allows now, for the group with the largest; ∞ = none."""
        return self.edge.limit if self.by_edge else math.inf

    def take(self, sharpness: float, kappa: float, *, step: int, elapsed: int, early: bool) -> None:
        """Apply a probe's finite λ at once; κ too where it is defined (not NaN).

        Early on, P and λ move by orders of magnitude per step (Adam's first metric is |g|), so
        the average would remember what has nothing to do with the next step: it is left out.
        """
        self.held = False
        self.edge.measured(sharpness, elapsed, fresh=early)
        self._set(self.edge, self.target * self.threshold(step), early)
        if math.isfinite(kappa):
            self.kappa.measured(kappa, elapsed, fresh=early)
            if self.kappa_target is not None:
                self._set(self.kappa, self.kappa_target, early)

    def _set(self, limit: Limit, numerator: float, early: bool) -> None:
        if early and not self.gentle:
            limit.follow(numerator)
        else:
            limit.attack(numerator)

    def advance_to(self, step: int, schedule: float) -> None:
        """Optimizer step `step` comes next: release by at most the rate for each one passed.

        Whoever comes first may call it, scheduler.step() or the next probe: steps are counted,
        not calls, so a scheduler that is stepped once per epoch releases as it should.
        """
        for passed in range(max(self.advanced_to + 1, step - 1000), step + 1):
            numerator = self.target * self.threshold(passed)
            self.edge.advance(numerator, self.settings.floor * schedule)
            if self.kappa_target is not None:
                self.kappa.advance(self.kappa_target, self.settings.floor)
        self.advanced_to = max(self.advanced_to, step)

    def factor(self, schedule: float) -> float:
        """The factor for a largest scheduled rate of `schedule`; sets `reason`."""
        floor = self.settings.floor
        if self.held:
            self.reason = HELD
            return floor
        ratios = []
        if self.by_edge:
            ratios.append((schedule / self.edge.limit if schedule > 0.0 else 0.0, self.edge))
        if self.kappa_target is not None:
            ratios.append((1.0 / self.kappa.limit, self.kappa))
        ratio, limit = max(ratios, key=lambda pair: pair[0])
        factor = rules.homotopy_scale(ratio, self.settings.alpha)
        if factor >= 1.0:
            self.reason = SCHEDULE
        elif factor <= floor:
            self.reason = FLOOR
        else:
            self.reason = RELEASE if limit.rising else CEILING
        return max(floor, factor)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        limits = {"edge": self.edge.state_dict(), "kappa": self.kappa.state_dict()}
        return limits | {name: getattr(self, name) for name in _COUNTERS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what moves."""
        self.edge.load_state_dict(state["edge"])
        self.kappa.load_state_dict(state["kappa"])
        for name in _COUNTERS:
            setattr(self, name, state[name])


_COUNTERS = ("n_before", "held", "reason", "advanced_to", "target", "kappa_target")
