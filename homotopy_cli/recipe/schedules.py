"""Schedulers a recipe can name: six fixed schedules, five driven by curvature, one replayed.

The keyword names are those of the classes and factories they feed; a test in tests/recipe
compares names and defaults with the constructors. `signal`, `estimation_freq`, `budget`,
`probe_fraction` and `layers_freq` left out are taken from the recipe's `curvature` section.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from homotopy_cli.recipe.values import (
    AtLeastOne,
    Count,
    Fraction,
    NonNegative,
    Percent,
    Positive,
    Real,
    Share,
    Spec,
    Whole,
    choice,
    fault,
    shown,
)

Signal = Literal[
    "auto",
    "preconditioned_sharpness",
    "sharpness",
    "directional",
    "secant",
    "forward",
    "trust_ratio",
    "kappa",
]


def _steps_or_share(value: float) -> float | int:
    if value < 0:
        raise fault(f"{shown(value)} is too small", "at least 0")
    if value >= 1 and not float(value).is_integer():
        raise fault(
            f"{shown(value)} is neither a number of steps nor a share of the run",
            "a whole number of steps, or a share below 1",
        )
    return int(value) if value >= 1 or value == 0 else float(value)


StepsOrShare = Annotated[Real, AfterValidator(_steps_or_share)]
Warmup = Annotated[
    StepsOrShare, Field(description="linear rise: steps, or a share of the run when below 1")
]
Final = Annotated[NonNegative, Field(description="factor of the base rate at the last step")]


class Constant(Spec):
    """The base rate throughout."""

    name: Literal["constant"] = "constant"
    warmup: Warmup = 0


class Step(Spec):
    """A drop by `gamma` every `step_size` steps."""

    name: Literal["step"] = "step"
    warmup: Warmup = 0
    step_size: Count | None = Field(
        default=None, description="steps between two drops; default a third of the run"
    )
    gamma: Share = Field(default=0.1, description="factor of one drop")


class Cosine(Spec):
    """Half a cosine from the base rate down to `final`."""

    name: Literal["cosine"] = "cosine"
    warmup: Warmup = 0
    final: Final = 0.0


class Linear(Spec):
    """A straight line from the base rate down to `final`."""

    name: Literal["linear"] = "linear"
    warmup: Warmup = 0
    final: Final = 0.0


class Wsd(Spec):
    """Warmup, stable, decay: constant, then a line down over the last `decay_steps`."""

    name: Literal["wsd"] = "wsd"
    warmup: Warmup = 0
    decay_steps: Count | None = Field(
        default=None, description="length of the final decay, steps; default a fifth of the run"
    )
    final: Final = 0.0


class Exponential(Spec):
    """The base rate for `hold`, then the same factor every step down to `final`."""

    name: Literal["exponential"] = "exponential"
    warmup: Warmup = 0
    hold: StepsOrShare = Field(
        default=0, description="after the warmup: steps, or a share of the run when below 1"
    )
    final: Share = Field(default=1e-3, description="factor of the base rate at the last step")


FIXED_SPECS: dict[str, type[Spec]] = {
    "constant": Constant,
    "step": Step,
    "cosine": Cosine,
    "linear": Linear,
    "wsd": Wsd,
    "exponential": Exponential,
}


def named(value: Any) -> Any:
    """`cosine` is short for `{name: cosine}`."""
    return {"name": value} if isinstance(value, str) else value


InnerSpec = Annotated[choice(FIXED_SPECS), BeforeValidator(named)]


def _own(description: str) -> Any:
    """A setting that, left out, keeps the scheduler class's own default."""
    return Field(default=None, description=description)


class Ceiling(Spec):
    """What every curvature-driven scheduler may be told."""

    inner: InnerSpec | None = _own("schedule below the ceiling; default constant")
    target: Positive | None = _own(
        "edge ratio lr·λ/threshold to stay under; default 0.9, in mode auto 1; less where SGD "
        "trains a network without normalisation"
    )
    alpha: NonNegative | None = _own(
        "strength; 1 is an exact ceiling, 0 only measures; default 1.0"
    )
    smoothing: Fraction | None = _own(
        "what the log-average of the curvature keeps per step; default 0.9"
    )
    release: AtLeastOne | None = _own(
        "largest rise of the ceiling per step; default 1.05; with a floor more in < 380 steps"
    )
    floor: Fraction | None = _own(
        "least factor on the schedule; default 0: nothing outranks the ceiling"
    )
    warmup: Fraction | None = _own(
        "Adam's family and mode auto: where the schedule starts beyond the edge, the rate rises "
        "in a straight line over this share of the run instead, 0 = as fast as the edge allows; "
        "default 0.25, in mode auto a tenth, though at least 200 steps and at most a quarter; for "
        "curvature_warmup 0"
    )
    start_ratio: Positive | None = _own(
        "edge ratio at which the line starts; default by the length of the rise"
    )
    scale_decay: bool | None = _own(
        "a schedule whose peak was refused decays from what it reached; default true, for "
        "per_layer_homotopy and curvature_warmup false"
    )
    curvature_target: Positive | None = _own(
        "κ above which the factor 1/(1 + alpha·(κ/curvature_target − 1)) bites, 1/loss; default "
        "none, 1e4 for signal kappa"
    )
    signal: Signal | None = _own("curvature that sets the ceiling; default curvature.signal")
    signal_fraction: bool | None = _own(
        "times the share of the gradient that is signal, not batch noise; default false"
    )
    estimation_freq: Count | None = _own("base probe period, steps; default curvature.freq")
    budget: Fraction | None = _own("share of the work spent probing; default curvature.budget")
    probe_fraction: Share | None = _own("share of the batch's rows a probe sees; default 1/8")
    layers_freq: Whole | None = _own(
        "probe periods between per-layer probes, 0 = never; default curvature.layers_freq"
    )
    burst: Whole | None = _own(
        "steps at the start that want a probe each; default 0.4 % of the run, 2 to 20"
    )
    longest: Count | None = _own(
        "longest probe period, steps; default 200, for curvature_warmup twice estimation_freq"
    )
    lanczos_steps: Count | None = _own("Hessian products per warm probe and matrix; default 3")
    kappa_freq: Count | None = _own("probes between two that measure H and κ too; default 4")
    burst_lanczos_steps: Count | None = _own("Hessian products of the first, cold probe; default 5")


class Homotopy(Ceiling):
    """lr = schedule / (1 + alpha·max(0, ratio/target − 1)), ratio = schedule·λ/threshold."""

    name: Literal["homotopy"] = "homotopy"
    mode: Literal["guard", "auto"] | None = _own(
        "guard limits the schedule; auto measures rate, warmup and peak, and needs no "
        "learning rate; default guard"
    )
    final: Share | None = _own("mode auto: last rate over its peak; default 0.1")


class AdaptiveHomotopy(Ceiling):
    """Like homotopy, with the target learned from the run's own history."""

    name: Literal["adaptive_homotopy"] = "adaptive_homotopy"
    warmup_steps: Whole | None = _own("linear warmup, steps; 0 = none; default a tenth of the run")
    adaptation_rate: Fraction | None = _own("largest |Δlog target| per probe; default 0.01")
    percentile: Percent | None = _own("of the history, 0 to 100; default 75.0")


class PerLayerHomotopy(Ceiling):
    """Like homotopy, with a factor per layer from per-layer curvature."""

    name: Literal["per_layer_homotopy"] = "per_layer_homotopy"
    power: NonNegative | None = _own("of median λ / layer λ in a layer's factor; default 0.5")
    low: Positive | None = _own("least factor of a layer; default 0.25")
    high: Positive | None = _own("largest factor of a layer; default 4.0")


class CurvatureWarmup(Ceiling):
    """The rate rises from a hundredth while the edge ratio allows it, then the schedule alone."""

    name: Literal["curvature_warmup"] = "curvature_warmup"
    warmup_steps: Whole | None = _own(
        "steps of the fastest possible rise; default a tenth of the run"
    )
    rise_below: Positive | None = _own("edge ratio below which the rate rises; default 0.25")


class CurvatureAdaptive(Ceiling):
    """Like homotopy, with settings ready made: keep the schedule's warmup, or replace it."""

    name: Literal["curvature_adaptive"] = "curvature_adaptive"
    mode: Literal["guard", "auto-warmup", "auto"] | None = _own(
        "guard: directional signal, target 1; auto-warmup: target 0.25; auto: as homotopy's; "
        "default none of them"
    )
    adaptation_rate: Share | None = _own("1 − smoothing; default 0.1")


CURVATURE_SPECS: dict[str, type[Spec]] = {
    "homotopy": Homotopy,
    "adaptive_homotopy": AdaptiveHomotopy,
    "per_layer_homotopy": PerLayerHomotopy,
    "curvature_warmup": CurvatureWarmup,
    "curvature_adaptive": CurvatureAdaptive,
}


class Replay(Spec):
    """The learning rates of an earlier run, step by step; shuffled, they are its placebo."""

    name: Literal["replay"] = "replay"
    path: str = Field(description="log of that run, from the recipe's folder")
    shuffle: Whole | None = Field(
        default=None,
        description="seed of another order of its cuts below the schedule; default as it was",
    )
    blocks: Count = Field(default=20, description="stretches of the run that are shuffled")


SCHEDULER_SPECS = {**CURVATURE_SPECS, **FIXED_SPECS, "replay": Replay}


def _scheduler(value: Any) -> Any:
    if value is False or (isinstance(value, str) and value.lower() in ("none", "null", "off")):
        raise fault(
            "a run always has a scheduler", "scheduler: constant keeps the learning rate fixed"
        )
    return named(value)


SchedulerSpec = Annotated[choice(SCHEDULER_SPECS), BeforeValidator(_scheduler)]
