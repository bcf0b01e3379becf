"""A schedule whose rates are measured: no learning rate, no warmup length, no peak is given.

Two phases, in optimizer steps t of a run of T:

    rise    η = ρ(t)·c/λ, ρ(t) = peak_ratio·(t/(warmup·T))^power: what is prescribed is the edge
            ratio, a straight line from 0, and the rate follows from the curvature of the moment.
            It never falls, and rises by at most RISE a step.
    decay   half a cosine from the rate reached to `final` of it; constant where T is unknown.

A rate cannot be extrapolated from the start: λ falls by orders of magnitude in the first steps,
how far depends on the rates used, and a ramp drawn through one early reading can end a hundred
times too high. An edge ratio can be prescribed: runs that end well stay near 0.1 in their first
steps, between 0.3 and 0.7 when their rate is highest, and never pass 0.7 for long.

A rate that only follows λ would sink with it (curvature settles near the edge of whatever rate is
in use), so the rise never goes back: what it asks for and the edge does not allow is the ceiling's
business (ceiling.py), which attacks at once and gives way again. No torch.
"""

import math
from dataclasses import dataclass
from typing import Any

START = 10  # last step of the start, where λ moves by factors: rates may fall, and rise by GROWTH
GROWTH = 8.0  # largest rise of the rate per step of the start
RISE = 1.1  # and per step after it
SPAN = 4.0  # the average of λ reaches back over the last 1/SPAN of the steps so far
UNMEASURED = 1e-8  # rate before the first probe: small enough to change nothing


@dataclass
class MeasuredRamp:
    """Callable step -> rate of the group with the largest; see the module for the law.

    Args:
        total_steps: T; 0 = unknown: the rise then ends at `fallback_ramp` and nothing decays.
        peak_ratio: Edge ratio at the end of the rise.
        warmup: Share of T that the rise takes.
        power: Exponent of the rise of the edge ratio; 1 is a straight line.
        final: Last rate over the peak.
        fallback_ramp: Length of the rise where T is unknown, steps.
    """

    total_steps: int = 0
    peak_ratio: float = 0.5
    warmup: float = 0.25
    power: float = 1.0
    final: float = 0.1
    fallback_ramp: int = 1000
    rate: float = UNMEASURED  # at step `taken_at`
    taken_at: int = -1
    curvature: float | None = None  # log-average of |λ|/c, 1/lr; None before the first probe

    @property
    def ramp_steps(self) -> int:
        """Step at which the rise ends."""
        length = round(self.warmup * self.total_steps) if self.total_steps else self.fallback_ramp
        return max(length, 1)

    @property
    def measured(self) -> bool:
        """Whether a probe has set the rate yet."""
        return self.curvature is not None

    @property
    def over(self) -> bool:
        """Whether the rise has ended."""
        return self.taken_at >= self.ramp_steps

    def ratio(self, step: int) -> float:
        """The edge ratio prescribed for `step` of the rise."""
        return self.peak_ratio * (min(step + 1, self.ramp_steps) / self.ramp_steps) ** self.power

    def __call__(self, step: int) -> float:
        """The rate for optimizer step `step`."""
        return self._plan(min(step, self.ramp_steps)) * self.decay(step)

    def decay(self, step: int) -> float:
        """Half a cosine from 1 at the end of the rise to `final` at the last step."""
        if not self.total_steps or step < self.ramp_steps:
            return 1.0
        share = (step - self.ramp_steps) / max(1, self.total_steps - 1 - self.ramp_steps)
        wave = 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
        return self.final + (1.0 - self.final) * wave

    def take(self, step: int, sharpness: float, threshold: float) -> None:
        """Use a probe of λ (signed) before optimizer step `step`, with the edge at ηλ = c.

        Args:
            step: Not before the last one taken. Once the rise is over nothing is taken.
            sharpness: λ in the optimizer's own metric, 1/lr.
            threshold: c.
        """
        if self.over:
            return
        value = max(abs(sharpness) / threshold, 1e-300)
        planned = self._plan(min(step, self.ramp_steps))
        if self.curvature is None:
            self.curvature, planned = value, self.ratio(step) / value
        else:
            share = min(1.0, SPAN * max(1, step - self.taken_at) / (step + 1))
            self.curvature *= (value / self.curvature) ** share
            if step <= START:
                planned = min(self.ratio(step) / self.curvature, GROWTH * self.rate)
        self.rate, self.taken_at = planned, step

    def _plan(self, step: int) -> float:
        """The rate at `step` of the rise, from the last probe on."""
        if self.curvature is None:
            return self.rate
        passed = max(0, step - self.taken_at)
        most = self.rate * RISE**passed if step > START else self.rate * GROWTH**passed
        return max(self.rate, min(self.ratio(step) / self.curvature, most))

    def state_dict(self) -> dict[str, Any]:
        """What moves; the settings belong to the constructor."""
        return {"rate": self.rate, "taken_at": self.taken_at, "curvature": self.curvature}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what moves."""
        self.rate, self.taken_at = state["rate"], state["taken_at"]
        self.curvature = state["curvature"]
