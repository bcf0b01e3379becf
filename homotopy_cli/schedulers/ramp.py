"""A schedule whose rates are measured: no learning rate, no warmup length, no peak is given.

Three phases, in optimizer steps t of a run of T:

    start   t <= START: η = share·c/λ at every probe. λ falls by orders of magnitude here.
    ramp    η grows in proportion to t, from the slope that the start's last probes gave, up to
            t = warmup·T, and no further than an edge ratio ρ = ηλ/c of `hold`, by the median of
            the last WINDOW λ. Where that ρ is above `cut` the rate falls back.
    decay   half a cosine from the rate reached to `final` of it; constant where T is unknown.

The start chooses the ramp's slope and so the order of magnitude of the peak. It cannot be read
off later: the curvature of a network in training settles near the edge of whatever rate is in
use, so ρ on a plateau says little about whether the plateau is a good one. No torch.
"""

import math
import statistics
from dataclasses import dataclass, field
from typing import Any

START = 10  # last step of the start: P's memory at β₂ = 0.9 to 0.95, while λ moves fastest
FIRST_TRUSTED = 4  # before it P is one or two gradients, and λ in it is no measure
GROWTH = 8.0  # largest rise of the rate per step of the start
UNMEASURED = 1e-8  # rate before the first probe: small enough to change nothing
WINDOW = 5  # probes: runs that end well see single ρ of 1 to 1.5 on their way up: our choice


@dataclass
class MeasuredRamp:
    """Callable step -> rate of the group with the largest; see the module for the law.

    Args:
        total_steps: T; 0 = unknown: the ramp then ends at `fallback_ramp` and nothing decays.
        share: Edge ratio of the start.
        warmup: Share of T at which the ramp ends.
        hold: Edge ratio, by the median, up to which the rate may rise.
        cut: The one above which it falls.
        final: Last rate over the peak.
        fallback_ramp: Length of the ramp where T is unknown, steps.
    """

    total_steps: int = 0
    share: float = 0.9
    warmup: float = 0.1
    hold: float = 0.9
    cut: float = 1.0
    final: float = 0.1
    fallback_ramp: int = 1000
    at: int = 0  # step that `rate` belongs to
    rate: float = UNMEASURED  # before the decay
    slope: float | None = None  # rate per step, once the start is over
    candidates: list[float] = field(default_factory=list)  # slopes the start has seen
    recent: list[float] = field(default_factory=list)  # λ/c of the last WINDOW probes

    @property
    def ramp_steps(self) -> int:
        """Step at which the ramp ends."""
        length = round(self.warmup * self.total_steps) if self.total_steps else self.fallback_ramp
        return max(length, 1)

    @property
    def measured(self) -> bool:
        """Whether a probe has set the rate yet."""
        return self.rate != UNMEASURED

    def __call__(self, step: int) -> float:
        """The rate for optimizer step `step`: where the ramp stands, times the decay."""
        return self.rate * self._growth_to(step) * self.decay(step)

    def decay(self, step: int) -> float:
        """Half a cosine from 1 at the end of the ramp to `final` at the last step."""
        if not self.total_steps or step < self.ramp_steps:
            return 1.0
        share = (step - self.ramp_steps) / max(1, self.total_steps - 1 - self.ramp_steps)
        wave = 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
        return self.final + (1.0 - self.final) * wave

    def advance_to(self, step: int) -> None:
        """Move on to optimizer step `step` without a measurement."""
        if step > self.at:
            self.rate *= self._growth_to(step)
            self.at = step

    def take(self, step: int, sharpness: float, threshold: float) -> None:
        """Use a probe of λ (signed) before optimizer step `step`, with the edge at ηλ = c.

        Args:
            step: Not before the last one taken.
            sharpness: λ in the optimizer's own metric, 1/lr.
            threshold: c.
        """
        self.advance_to(step)
        self.recent = [*self.recent[1 - WINDOW :], max(sharpness, 0.0) / threshold]
        if step <= START or self.slope is None:
            wanted = self.share * threshold / max(abs(sharpness), 1e-300)
            self.rate = min(wanted, GROWTH * self.rate) if self.measured else wanted
            if step >= min(FIRST_TRUSTED, self.ramp_steps):
                self.candidates.append(self.rate / (step + 1))
            if step >= START and self.candidates:
                self.slope = statistics.median(self.candidates)
                self.rate = min(self.rate, self.slope * (step + 1))
            return
        ratio = self(step) * statistics.median(self.recent)
        if ratio > self.cut:
            self.rate *= math.sqrt(self.cut / ratio)

    def _growth_to(self, step: int) -> float:
        """Factor on the rate between `at` and `step` on the ramp; 1 off it."""
        end = min(step, self.ramp_steps)
        if self.slope is None or end <= self.at:
            return 1.0
        ratio = self.rate * statistics.median(self.recent)
        room = self.hold / ratio if ratio > 0.0 else math.inf
        return max(1.0, min((end + 1) / (self.at + 1), room))

    def state_dict(self) -> dict[str, Any]:
        """What moves; the settings belong to the constructor."""
        return {name: getattr(self, name) for name in _MOVING} | {
            "candidates": list(self.candidates),
            "recent": list(self.recent),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what moves."""
        for name in _MOVING:
            setattr(self, name, state[name])
        self.candidates, self.recent = list(state["candidates"]), list(state["recent"])


_MOVING = ("at", "rate", "slope")
