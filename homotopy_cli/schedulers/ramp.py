"""A schedule whose rates are measured: no learning rate, no warmup length, no peak is given.

Three phases, in optimizer steps t of a run of T:

    start   t <= START: η = share·c/λ at every probe. λ falls by orders of magnitude here.
    ramp    η grows as t^power, from where the start's last probes put it, up to t = warmup·T.
    decay   half a cosine from the rate reached to `final` of it; constant where T is unknown.

The start chooses the order of magnitude of the peak. It cannot be read off later: the curvature
of a network in training settles near the edge of whatever rate is in use, so the edge ratio of a
plateau says little about whether the plateau is a good one. What the ramp asks for and the edge
does not allow is the ceiling's business (ceiling.py), as under any schedule: it attacks at once
and gives way again, where a cut of the plan itself would be remembered to the end. No torch.
"""

import math
import statistics
from dataclasses import dataclass, field
from typing import Any

START = 10  # last step of the start: P's memory at β₂ = 0.9 to 0.95, while λ moves fastest
FIRST_TRUSTED = 4  # before it P is one or two gradients, and λ in it is no measure
GROWTH = 8.0  # largest rise of the rate per step of the start
UNMEASURED = 1e-8  # rate before the first probe: small enough to change nothing


@dataclass
class MeasuredRamp:
    """Callable step -> rate of the group with the largest; see the module for the law.

    Args:
        total_steps: T; 0 = unknown: the ramp then ends at `fallback_ramp` and nothing decays.
        share: Edge ratio of the start.
        warmup: Share of T at which the ramp ends.
        power: Exponent of the ramp; 1 is a straight line.
        final: Last rate over the peak.
        fallback_ramp: Length of the ramp where T is unknown, steps.
    """

    total_steps: int = 0
    share: float = 0.6
    warmup: float = 0.25
    power: float = 1.0
    final: float = 0.1
    fallback_ramp: int = 1000
    rate: float = UNMEASURED  # during the start
    slope: float | None = None  # rate / (t + 1) at the end of the start
    candidates: list[float] = field(default_factory=list)  # slopes the start has seen

    @property
    def ramp_steps(self) -> int:
        """Step at which the ramp ends."""
        length = round(self.warmup * self.total_steps) if self.total_steps else self.fallback_ramp
        return max(length, 1)

    @property
    def peak(self) -> float:
        """The rate at the end of the ramp; the present one before the start is over."""
        return self._plan(self.ramp_steps)

    @property
    def measured(self) -> bool:
        """Whether a probe has set the rate yet."""
        return self.rate != UNMEASURED

    def __call__(self, step: int) -> float:
        """The rate for optimizer step `step`."""
        return self._plan(min(step, self.ramp_steps)) * self.decay(step)

    def decay(self, step: int) -> float:
        """Half a cosine from 1 at the end of the ramp to `final` at the last step."""
        if not self.total_steps or step < self.ramp_steps:
            return 1.0
        share = (step - self.ramp_steps) / max(1, self.total_steps - 1 - self.ramp_steps)
        wave = 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
        return self.final + (1.0 - self.final) * wave

    def take(self, step: int, sharpness: float, threshold: float) -> None:
        """Use a probe of λ (signed) before optimizer step `step`, with the edge at ηλ = c.

        Args:
            step: Not before the last one taken. Once the start is over nothing is taken.
            sharpness: λ in the optimizer's own metric, 1/lr.
            threshold: c.
        """
        if self.slope is not None:
            return
        wanted = self.share * threshold / max(abs(sharpness), 1e-300)
        self.rate = min(wanted, GROWTH * self.rate) if self.measured else wanted
        if step >= min(FIRST_TRUSTED, self.ramp_steps):
            self.candidates.append(self.rate / (step + 1))
        if step >= START and self.candidates:
            self.slope = statistics.median(self.candidates)

    def _plan(self, step: int) -> float:
        """The rate at `step` of the ramp."""
        if self.slope is None:
            return self.rate
        return self.slope * (START + 1) * ((step + 1) / (START + 1)) ** self.power

    def state_dict(self) -> dict[str, Any]:
        """What moves; the settings belong to the constructor."""
        return {"rate": self.rate, "slope": self.slope, "candidates": list(self.candidates)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what moves."""
        self.rate, self.slope = state["rate"], state["slope"]
        self.candidates = list(state["candidates"])
