"""Measured curvature -> one factor on the schedule, with the reason for it."""

import math
from typing import Any

from torch.optim import Optimizer

from homotopy_cli.curvature.families import optimizer_family
from homotopy_cli.records import LR_REASONS
from homotopy_cli.schedulers import rules, thresholds
from homotopy_cli.schedulers.limits import Limit, Reach
from homotopy_cli.schedulers.ramp import FIRST_TRUSTED, LAST_EARLY, MeasuredRamp
from homotopy_cli.schedulers.settings import GuardSettings

# Codes of `reason`
SCHEDULE, CEILING, RELEASE, FLOOR, HELD, PER_GROUP, RISE, SCALED = map(
    LR_REASONS.index,
    ("schedule", "ceiling", "release", "floor", "held", "per_group", "rise", "scaled"),
)
_WHY = {
    FLOOR: "at the least factor",
    HELD: "no probe has succeeded yet",
    RISE: "rates rise in the line that the start's curvature suggests",
    SCALED: "it decays from the peak that was allowed",
}
EARLY_RELEASE = 1.3  # a step, under a schedule with a warmup; our choice
PATIENCE = 2  # in estimation_freq: see Ceiling._rate; our choice
FRACTION_KEEPS = 0.8  # what the log-average of the signal fraction keeps per probe; our choice
WILD = 8  # last step at which a probe's word is taken at once, however much it cuts; our choice
UNCONFIRMED = 2.0  # largest cut by one probe after the start; our choice
KAPPA_TARGET = 1e4  # 1/loss; our choice


class Ceiling:
    """The laws, edge of stability, κ and measured rise, as one factor in [floor, 1].

    The factor is 1/(1 + α·max(0, ratio - 1)) of the largest ratio: ρ/target for the edge,
    κ/curvature_target for κ, schedule/line for the rise. The edge law is on unless the signal is
    "kappa"; the κ law is on where the signal is "kappa" or a curvature_target is given; the rise,
    where there is a `rise` and the schedule was beyond the edge law from the start on: rates
    then grow no faster than in the line that the start's curvature suggests. What the laws let a
    schedule reach of its peak scales its decay: see Reach.

    Args:
        optimizer: Its groups and step count give the threshold c.
        settings: The numbers.
        signal: Resolved: not "auto".
        target: Edge ratio to stay under.
        n_before: Optimizer steps taken before step 0 here.
        gentle: Release slowly from the first probe on: the ceiling is the warmup. False where
            the schedule brings its own, which a release from the first, extreme curvature
            would delay: early on the release is then EARLY_RELEASE a step.
        early_steps: Last step of the start.
        rise: The line, which a probe here feeds; None: rates may rise as the edge allows.
        in_line: The line is in force from the start, as in mode auto; else only once early
            probes find the schedule beyond the edge.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        settings: GuardSettings,
        *,
        signal: str,
        target: float,
        n_before: int,
        gentle: bool = True,
        early_steps: int = 0,
        rise: MeasuredRamp | None = None,
        in_line: bool = False,
    ) -> None:
        self.optimizer = optimizer
        self.settings = settings
        self.family = optimizer_family(optimizer)
        self.acts = True  # False: measured only, and no rate is lowered
        self.by_steps = signal == "trust_ratio"
        self.by_edge = signal != "kappa"
        self.by_metric = signal == "preconditioned_sharpness"
        self.target = target  # edge ratio to stay under; a subclass may learn it, or κ's, 1/loss
        self.kappa_target = settings.curvature_target or (None if self.by_edge else KAPPA_TARGET)
        self.edge = Limit(settings.smoothing)
        self.kappa = Limit(settings.smoothing)
        self.rise = rise
        self.in_line = self.auto = in_line
        self.n_beyond = 0  # early probes in a row that found the schedule beyond the edge law
        self.reach = Reach()
        self.n_before = n_before
        self.gentle = gentle
        self.early_steps = early_steps
        self.n_taken = 0
        self.taken_at = -1  # step of the last successful probe
        self.held = False  # probes failed before any succeeded: the floor holds
        self.reason = SCHEDULE
        self.fraction = 1.0  # smoothed share of the gradient that is signal; 1 where not used
        self.advanced_to = 0  # optimizer step up to which the limits were released

    def threshold(self, step: int) -> float:
        """c for optimizer step `step` (0-based, since construction), dimensionless."""
        if self.by_steps:
            return thresholds.DESCENT
        edge = thresholds.live_threshold if self.by_metric else thresholds.stability_threshold
        return edge(self.optimizer, self.n_before + step + 1, family=self.family)

    @property
    def measured(self) -> bool:
        """Whether a probe has succeeded yet."""
        return self.edge.curvature is not None

    @property
    def level(self) -> float:
        """The largest rate the edge allows now, for the group with the largest; ∞ = none."""
        return self.edge.limit if self.by_edge else math.inf

    def take(self, sharpness: float, kappa: float, *, step: int, elapsed: int) -> None:
        """Apply a probe's finite λ at once; κ too where it is defined (not NaN).

        Early on, P and λ move by orders of magnitude per step, and the average is left out. Later,
        one reading of a small slice may be 25 times the next one, and rising back takes 66 steps.
        So one probe cuts the edge by at most UNCONFIRMED; the next, or none (`confirm`), decides.
        """
        self.held = False
        own = thresholds.next_step(self.optimizer) - 1 - step  # it may have loaded a checkpoint
        self.n_before = max(self.n_before, own)
        fresh = step <= self.early_steps
        self.edge.measured(sharpness, elapsed, fresh=fresh)
        if step <= WILD or not self.by_edge:
            self._set(self.edge, self._numerator(step))
        else:
            self.edge.attack_in_doubt(self._numerator(step), UNCONFIRMED)
        if self.rise is not None:
            self.rise.take(step, sharpness, self.threshold(step))
            self._see_whether_it_needs_the_line(step)
        if math.isfinite(kappa):
            self.kappa.measured(kappa, elapsed, fresh=fresh)
            if self.kappa_target is not None:
                self._set(self.kappa, self.kappa_target)
        self.n_taken += 1
        self.taken_at = step

    def _see_whether_it_needs_the_line(self, step: int) -> None:
        """Take the measured line where two probes in a row, early on, find the schedule too high.

        Under the edge alone a schedule far too high would ride on it; one that the network can bear
        does not pass the edge so early, and the line would only hold it back (5.51 for 5.26: a GPT
        over BPE tokens). On a six-layer GPT a peak ten times the best was 1.0 to 1.4 times the
        edge's limit in steps 4 to 8, one thirty times 3 to 4, the best one 0.2.
        """
        if FIRST_TRUSTED <= step <= LAST_EARLY and not self.edge.doubted:
            beyond = self.reach.current > self.edge.goal(self._numerator(step))
            self.n_beyond = self.n_beyond + 1 if beyond else 0
            self.in_line = self.in_line or self.n_beyond >= 2

    @property
    def lowers(self) -> bool:
        """Whether any rate can be lowered at all."""
        return self.acts and self.settings.alpha > 0.0

    def hold(self) -> None:
        """A probe has failed: the floor holds until the first that succeeds."""
        self.held = self.lowers and not self.measured

    def confirm(self) -> None:
        """There is no second probe at the step after: the last one's word counts in full."""
        if self.advanced_to > self.taken_at:
            self.edge.confirm(self._numerator(self.advanced_to))

    def take_fraction(self, fraction: float) -> None:
        """Smooth the share of signal of one more probe; NaN is no news."""
        if math.isfinite(fraction):
            keep = 0.0 if self.n_taken == 0 else FRACTION_KEEPS
            self.fraction = self.fraction**keep * fraction ** (1.0 - keep)

    def _numerator(self, step: int) -> float:
        """target·c, times the share of the gradient that is signal where that is asked for."""
        return self.target * self.threshold(step) * self.fraction

    def _set(self, limit: Limit, numerator: float) -> None:
        if self.n_taken == 1 and not self.gentle:  # Adam's very first metric is |g|: no measure
            limit.follow(numerator)
        else:
            limit.attack(numerator)

    def advance_to(self, step: int, schedule: float) -> None:
        """Optimizer step `step` comes next: release by at most the rate for each one passed.

        scheduler.step() or the next probe may come first: steps are counted, not calls.
        """
        for passed in range(max(self.advanced_to + 1, step - 1000), step + 1):
            if self._scales:
                self.reach.advance(self._law, early=passed <= self.early_steps)
            if passed > self.taken_at + 1:
                self.confirm()
            rate = self._rate(passed)
            self.edge.advance(self._numerator(passed), self.settings.floor * schedule, rate)
            if self.kappa_target is not None:
                self.kappa.advance(self.kappa_target, self.settings.floor, rate)
            self.advanced_to = passed
            self.reach.highest = max(self.reach.highest, self.reach.current)
        self.reach.current = schedule
        self.advanced_to = max(self.advanced_to, step)

    @property
    def _scales(self) -> bool:
        """Whether a refused peak is remembered: not in the start, where the limits still fall."""
        starting = self.in_line and self.rise.slope is None
        return self.settings.scale_decay and self.measured and self.by_edge and not starting

    def _rate(self, step: int) -> float:
        """Largest rise of the limits at `step`: the older the last probe, the smaller.

        At twice the age of `patience` the log of the rate is halved, and so on: a rise on old
        evidence is how a ceiling fails open.
        """
        quick = step <= self.early_steps and not self.gentle
        release = self.settings.release_rate
        rate = max(EARLY_RELEASE, release) if quick else release
        age = step - self.taken_at
        return rate ** (self.patience / age) if self.is_stale(step) else rate

    @property
    def patience(self) -> int:
        """Steps for which a probe's word is taken in full."""
        return PATIENCE * self.settings.estimation_freq

    def is_stale(self, step: int) -> bool:
        """Whether the last probe is older than that."""
        return step - self.taken_at > self.patience

    def rises(self, step: int) -> bool:
        """Whether rates are in the measured line, which goes up to the edge by plan."""
        return self.in_line and step <= self.rise.ramp_steps

    def holds_blindly(self, step: int, tried_at: int) -> bool:
        """Whether rates are held down on old or doubted evidence: worth a probe over the budget.

        One outlier before the budget is spent would hold the rate to the end. The overdraft is at
        most the poorest probe every `patience` steps after `tried_at`, the last probe's step. A
        decay asks where a deep cut holds it, mode auto after its rise, at home at the edge, where
        the rate is well below what it was let reach.
        """
        last = max(self.taken_at, tried_at)
        if self.edge.doubted:
            return step > last
        held, free = self.reason in (CEILING, RELEASE, FLOOR), self.edge.limit < self.edge.cap
        if self.rise is not None and step <= self.rise.ramp_steps:
            held = held or self.reason == SCALED
        elif self.reason == SCALED:
            held = free and self.reach.is_cut(self._law)
        elif self.auto:
            held = held and free and self.reach.is_short(self._law)
        return self.measured and held and step - last > self.patience

    def factor(self, schedule: float) -> float:
        """The factor for a largest scheduled rate of `schedule`; sets `reason`."""
        floor = self.settings.floor
        if not self.lowers:
            self.reason = SCHEDULE
            return 1.0
        if self.held:
            self.reason = HELD
            return floor
        ratio, reason = self._ratio(schedule)
        factor = rules.homotopy_scale(ratio, self.settings.alpha)
        if self.reach.of(schedule) < factor:
            factor, reason = self.reach.share, SCALED
        if factor >= 1.0:
            self.reason = SCHEDULE
        else:
            self.reason = FLOOR if factor <= floor else reason
        return max(floor, factor)

    def why(self, signal: str) -> str:
        """What holds the rate below its schedule, in words."""
        return _WHY.get(self.reason, f"{signal} allows {self.level:.3g}")

    def _ratio(self, schedule: float) -> tuple[float, int]:
        """The largest ratio of the laws in force at a rate of `schedule`, and its reason."""
        ratios = []
        if self.by_edge:
            ratio = schedule / self.edge.limit if schedule > 0.0 else 0.0
            ratios.append((ratio, RELEASE if self.edge.rising else CEILING))
        if self.kappa_target is not None:
            ratios.append((1.0 / self.kappa.limit, RELEASE if self.kappa.rising else CEILING))
        if self.in_line:
            ratios.append((schedule / self.rise.level(self.advanced_to), RISE))
        return max(ratios, key=lambda pair: pair[0])

    def _law(self, schedule: float) -> float:
        """The factor of the laws alone at a rate of `schedule`."""
        return rules.homotopy_scale(self._ratio(schedule)[0], self.settings.alpha)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        parts = {name: getattr(self, name) for name in ("edge", "kappa", "reach", "rise")}
        limits = {name: part.state_dict() for name, part in parts.items() if part is not None}
        return limits | {name: getattr(self, name) for name in _COUNTERS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what moves."""
        for name in ("edge", "kappa", "reach", "rise"):
            if name in state and getattr(self, name) is not None:
                getattr(self, name).load_state_dict(state[name])
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.in_line = self.in_line and self.rise is not None  # made with another total_steps


_COUNTERS = (
    "n_before",
    "held",
    "in_line",
    "n_beyond",
    "reason",
    "advanced_to",
    "n_taken",
    "taken_at",
    "target",
    "kappa_target",
    "fraction",
)
