"""A schedule whose rates are measured: no learning rate, no warmup length, no peak is given.

Mode auto follows it whole; under mode guard its rise is a limit on the schedule that is given.

Three phases, in optimizer steps t of a run of T:

    start   t <= START: η = share·c/λ at every probe. λ falls by orders of magnitude here.
    rise    η grows in a straight line, as the start's rates suggest, for `ramp_steps`; more slowly
            while the edge ratio is above CALM, and not at all while it is above FULL.
    level   the rate reached, until DECAY_FROM of the run; for good where T is unknown.
    decay   a straight line from there to `final` of it.

The share is small, because the start decides how steep the rise is, and how gently the rate rises
decides how a run ends; the longer the rise may take, the smaller it is: START_RATIO for a rise of
`gauge` steps, in inverse proportion within LEAST and MOST. The plateau cannot be read off the edge.
The curvature of a network in training settles near the edge of whatever rate is in use: on a
six-layer GPT the ratio was 0.3 to 0.9 at rates from 2e-3 to 2e-2. A rate that is set to a share of
the edge sinks with it, and one that waits for a lower ratio waits for ever. So the rate is pushed
up, and only a ratio that stays beyond the edge stops it. What the rise asks for and the edge does
not allow is the ceiling's business (ceiling.py), which attacks at once and gives way again.
The numbers are of that GPT; no torch.
"""

import math
import statistics
from dataclasses import dataclass, field
from typing import Any

from homotopy_cli.schedulers.settings import GuardSettings

START = 10  # last step of the start: P's memory at β₂ = 0.9 to 0.95, while λ moves fastest
LAST_EARLY = 16  # last step of a probe that tells how steep the line is
FIRST_TRUSTED = 4  # before it P is one or two gradients, and λ in it is no measure
DECAY_FROM = 0.8  # of the run
GROWTH = 8.0  # largest rise of the rate per step of the start
CALM, FULL = 0.8, 1.2  # edge ratios, read high by small slices: the rise slows, and halts
START_RATIO = 0.15  # edge ratio of the start, for a rise of `gauge` steps
AUTO_STEPS, LINE_STEPS = 200, 500  # gauge in mode auto, and of the line under a schedule
LEAST, MOST = 0.02, 0.2  # bounds of the share
RECENT = 5  # readings whose median is the curvature: one outlier stops no rise
LINE_SIGNAL = "preconditioned_sharpness"  # for which the numbers here were measured
UNMEASURED = 1e-8  # rate before the first probe: small enough to change nothing


@dataclass
class MeasuredRamp:
    """Callable step -> rate of the group with the largest; see the module for the law.

    Args:
        total_steps: T; 0 = unknown: the rise then ends at `fallback_ramp` and nothing decays.
        start_ratio: Edge ratio of the start; None: by the length of the rise, see the module.
        warmup: Share of T at which the rise ends; None: a tenth of T, at least AUTO_STEPS, at most
            a quarter of T.
        final: Last rate over the peak.
        fallback_ramp: Length of the rise where T is unknown, steps.
        gauge: Length of the rise for which START_RATIO is meant, steps.
    """

    total_steps: int = 0
    start_ratio: float | None = None
    warmup: float | None = None
    final: float = 0.1
    fallback_ramp: int = 1000
    gauge: int = AUTO_STEPS
    rate: float = UNMEASURED  # at step `taken_at`
    taken_at: int = -1
    recent: list[float] = field(default_factory=list)  # last readings of |λ|/c, 1/lr
    slope: float | None = None  # of the rate, per step, at the end of the start
    candidates: list[float] = field(default_factory=list)  # slopes the start has seen
    n_early: int = 0  # probes in steps FIRST_TRUSTED to LAST_EARLY
    closed: bool = False  # the rise is over, whatever becomes of T
    ended: bool = False  # it was the last probe that ended it

    @property
    def ramp_steps(self) -> int:
        """Step at which the rise ends."""
        total = self.total_steps
        if not total:
            return max(self.fallback_ramp, 1)
        usual = min(0.25 * total, max(0.1 * total, AUTO_STEPS))
        return max(1, round(usual if self.warmup is None else self.warmup * total))

    @property
    def decay_from(self) -> int:
        """Last step before the decay, where T is known."""
        total = self.total_steps
        return max(self.ramp_steps, min(round(DECAY_FROM * total), total - 2))

    @property
    def share(self) -> float:
        """Edge ratio of the start."""
        if self.start_ratio is not None:
            return self.start_ratio
        return min(MOST, max(LEAST, START_RATIO * self.gauge / self.ramp_steps))

    @property
    def measured(self) -> bool:
        """Whether a probe has set the rate yet."""
        return bool(self.recent)

    @property
    def over(self) -> bool:
        """Whether the rise has ended."""
        return self.closed or self.taken_at >= self.ramp_steps

    def __call__(self, step: int) -> float:
        """The rate for optimizer step `step`."""
        return self._plan(min(step, self.ramp_steps)) * self.decay(step)

    def level(self, step: int) -> float:
        """The highest rate of the rise by optimizer step `step`; inf where nobody saw the start."""
        unseen = step > LAST_EARLY and self.n_early < 2
        return math.inf if unseen or not self.measured else self._plan(min(step, self.ramp_steps))

    def decay(self, step: int) -> float:
        """1 until DECAY_FROM of the run, then a straight line to `final` at the last step."""
        first = self.decay_from
        if not self.total_steps or step <= first:
            return 1.0
        share = (step - first) / max(1, self.total_steps - 1 - first)
        return 1.0 - (1.0 - self.final) * min(1.0, share)

    def take(self, step: int, sharpness: float, threshold: float) -> None:
        """Use a probe of λ (signed) before optimizer step `step`, with the edge at ηλ = c.

        Args:
            step: Not before the last one taken. Once the rise is over nothing is taken.
            sharpness: λ in the optimizer's own metric, 1/lr.
            threshold: c.
        """
        self.ended = False
        if self.over:
            return
        value = max(abs(sharpness) / threshold, 1e-300)
        step = min(step, self.ramp_steps)
        if self.slope is not None:
            self.rate = self._plan(step)
            self.recent = [*self.recent[1 - RECENT :], value]
        else:
            wanted = self.share / value
            self.rate = min(wanted, GROWTH * self.rate) if self.measured else wanted
            self.recent = [value]
            if step >= min(FIRST_TRUSTED, self.ramp_steps):
                self.candidates.append(self.rate / (step + 1))
            if step >= START and self.candidates:
                self.slope = statistics.median(self.candidates)
        self.n_early += FIRST_TRUSTED <= step <= LAST_EARLY
        self.taken_at = step
        self.closed = self.ended = self.over

    @property
    def freedom(self) -> float:
        """Slope now over that of the start: 1 below CALM, 0 from FULL on."""
        ratio = self.rate * statistics.median(self.recent or [0.0])
        return min(1.0, max(0.0, (FULL - ratio) / (FULL - CALM)))

    def _plan(self, step: int) -> float:
        """The rate at `step` of the rise, from the last probe on."""
        if self.slope is None or self.closed:
            return self.rate
        return self.rate + self.slope * self.freedom * max(0, step - self.taken_at)

    def state_dict(self) -> dict[str, Any]:
        """What moves; the settings belong to the constructor."""
        return {name: getattr(self, name) for name in _MOVING} | {
            "candidates": list(self.candidates),
            "recent": list(self.recent),
            "law": LAW,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what moves."""
        for name in _MOVING:
            setattr(self, name, state[name])
        self.candidates, self.recent = list(state["candidates"]), list(state["recent"])


_MOVING = ("rate", "taken_at", "slope", "n_early", "closed")
LAW = 3  # of the schedule, in states; the second rose for a quarter and decayed from there


def measured_rise(settings: GuardSettings, signal: str) -> MeasuredRamp | None:
    """The line under a schedule that is given; None: its rates may rise as the edge allows.

    There is one where the settings have a warmup, LINE_SIGNAL steers, and the run is known to be
    long enough for a start and a rise.
    """
    if not settings.warmup or signal != LINE_SIGNAL:
        return None
    line = MeasuredRamp(
        settings.total_steps, settings.start_ratio, settings.warmup, gauge=LINE_STEPS
    )
    return line if settings.total_steps and line.ramp_steps > LAST_EARLY else None
