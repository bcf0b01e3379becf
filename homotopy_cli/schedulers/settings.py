"""The numbers a curvature guard runs on, checked once. No torch."""

import math
from dataclasses import dataclass
from typing import Literal

Signal = Literal[
    "auto",
    "sharpness",
    "preconditioned_sharpness",
    "directional",
    "secant",
    "forward",
    "trust_ratio",
    "kappa",
]
SIGNALS = Signal.__args__  # type: ignore[attr-defined]
RELEASE = 1.05  # largest rise of the ceiling per optimizer step
ALONG_STEP = ("directional", "secant", "forward")  # u'Hu/u'Pu along u = P⁻¹g


@dataclass(frozen=True)
class GuardSettings:
    """Everything a CurvatureGuard can be told; the constructors of the schedulers pass it on."""

    signal: Signal = "auto"
    target: float | None = None  # edge ratio to stay under; None: see targets
    warmup: float = 0.25  # share of total_steps for which rates rise in a measured line; 0 = freely
    start_ratio: float | None = None  # edge ratio at which the line begins; None: by its length
    scale_decay: bool = True  # a schedule whose peak was refused decays from what it reached
    signal_fraction: bool = False  # times the share of the gradient that is no batch noise
    curvature_target: float | None = None  # κ above which the κ law bites, 1/loss
    alpha: float = 1.0  # strength of 1/(1 + α·max(0, ratio - 1))
    smoothing: float = 0.9  # per optimizer step: what the log-average of λ keeps
    release: float | None = None  # largest rise of the ceiling per step; None: see release_rate
    floor: float = 1e-2  # least factor on the schedule
    estimation_freq: int = 10  # base probe period, optimizer steps
    burst: int | None = None  # steps at the start with a probe each; None: by total_steps
    longest: int = 200  # longest probe period, optimizer steps
    budget: float = 0.05  # share of gradient-equivalents for probing; inf = unlimited
    shortest: int = 5  # steps between two probes after the burst, where rates rise in a line
    front: float = 0.8  # share of the whole budget that may be spent at once
    total_steps: int = 0  # length of the run; 0 = unknown
    probe_fraction: float = 0.125  # share of the batch's rows a probe measures; half early on
    lanczos_steps: int = 3  # per probe, warm-started
    burst_lanczos_steps: int = 5  # of the first probe, which starts cold; one less early on
    kappa_freq: int = 4  # probes between two of H itself, where P⁻¹H is what steers
    layers_freq: int = 0  # steps between per-layer probes; 0 = none
    seed: int = 0  # of start vectors and dropout masks

    def __post_init__(self) -> None:
        if self.signal not in SIGNALS:
            raise ValueError(f"signal is {self.signal!r}: one of {', '.join(SIGNALS)}")
        if self.target is not None:
            within("target", self.target, "(0, inf)")
        within("alpha", self.alpha, "[0, inf)")
        if self.release is not None:
            within("release", self.release, "[1, inf)")
        within("budget", self.budget, "(0, inf]")
        within("probe_fraction", self.probe_fraction, "(0, 1]")
        within("warmup", self.warmup, "[0, 1]")
        if self.start_ratio is not None:
            within("start_ratio", self.start_ratio, "(0, inf)")
        within("floor", self.floor, "[0, 1]")
        within("smoothing", self.smoothing, "[0, 1)")
        if self.curvature_target is not None:
            within("curvature_target", self.curvature_target, "(0, inf)")
        for name in ("total_steps", "burst", "layers_freq"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must not be negative")
        for name in (
            "estimation_freq",
            "longest",
            "lanczos_steps",
            "burst_lanczos_steps",
            "kappa_freq",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")

    @property
    def early_fraction(self) -> float:
        """Slice of the first steps' probes and of the layers': half, or the batch if that is it."""
        return self.probe_fraction if self.probe_fraction >= 1.0 else 0.5 * self.probe_fraction

    @property
    def release_rate(self) -> float:
        """`release`, or 1.05; in a short run what rises from the floor in a quarter of it."""
        if self.release is not None:
            return self.release
        short = 0.25 * self.total_steps
        return max(RELEASE, self.floor ** (-1.0 / short) if short and self.floor else RELEASE)

    @property
    def burst_steps(self) -> int:
        """`burst`, or 0.4 % of the run within 2 to 20 steps; 4 where its length is unknown."""
        if self.burst is not None:
            return self.burst
        return max(2, min(20, self.total_steps // 250)) if self.total_steps else 4


def norm_is_finite(clip_coef: float) -> bool:
    """Whether clipping left a step to judge: 0 and NaN are max_norm over a norm that is inf or NaN.

    Raises:
        ValueError: The coefficient is none of these, nor in (0, 1].
    """
    if clip_coef != 0.0 and not math.isnan(clip_coef):
        within("clip_coef", clip_coef, "(0, 1]")
        return True
    return False


def within(name: str, value: float, interval: str) -> None:
    """Raise ValueError where a value, NaN too, is outside an interval like "(0, 1]"."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value > low or (interval[0] == "[" and value == low)
    below = value < high or (interval[-1] == "]" and value == high)
    if not (above and below):
        raise ValueError(f"{name} is {value}: it must be in {interval}")
