"""Schedulers a recipe can name: five fixed schedules, five driven by curvature.

The keyword names are those of the classes and factories they feed; a test in tests/recipe
compares them with the constructors. `signal`, `estimation_freq`, `budget`, `probe_fraction`
and `layers_freq` left out are taken from the recipe's `curvature` section.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from homotopy_cli.recipe.values import (
    Count,
    Fraction,
    NonNegative,
    Positive,
    Real,
    Share,
    Spec,
    Whole,
    choice,
    fault,
    shown,
)

Signal = Literal["auto", "preconditioned_sharpness", "sharpness", "directional", "kappa"]


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


FIXED_SPECS: dict[str, type[Spec]] = {
    "constant": Constant,
    "step": Step,
    "cosine": Cosine,
    "linear": Linear,
    "wsd": Wsd,
}


def named(value: Any) -> Any:
    """`cosine` is short for `{name: cosine}`."""
    return {"name": value} if isinstance(value, str) else value


InnerSpec = Annotated[choice(FIXED_SPECS), BeforeValidator(named)]


class _Probing(Spec):
    """What every curvature-driven scheduler may be told about its probes."""

    estimation_freq: Count | None = Field(
        default=None, description="steps between probes; default curvature.freq"
    )
    signal: Signal | None = Field(
        default=None, description="curvature that sets the ceiling; default curvature.signal"
    )
    budget: Fraction | None = Field(
        default=None, description="largest share of the run's work spent probing; 0 = no limit"
    )
    probe_fraction: Share | None = Field(
        default=None, description="share of the training batch a probe looks at"
    )
    layers_freq: Whole | None = Field(
        default=None, description="every so many probes, also per layer; 0 = never"
    )
    smoothing: Fraction = Field(
        default=0.9, description="weight of the past in the moving average of the curvature"
    )
    inner: InnerSpec | None = Field(
        default=None, description="schedule below the ceiling; default constant"
    )


class _Ceiling(_Probing):
    target: Positive | None = Field(
        default=None,
        description="edge ratio lr·λ/threshold to stay below; default by mode and optimizer",
    )
    floor: Fraction = Field(default=0.01, description="smallest factor of the scheduled rate")
    release: Annotated[Positive, Field(description="largest rise of the ceiling per step")] = 1.05


class Homotopy(_Ceiling):
    """lr = schedule / (1 + alpha·max(0, ratio/target − 1)), ratio = schedule·λ/threshold."""

    name: Literal["homotopy"] = "homotopy"
    alpha: NonNegative = Field(
        default=1.0, description="strength; 1 makes the formula an exact ceiling"
    )
    curvature_target: Positive | None = Field(
        default=None,
        description="signal kappa only: the founding formula's target, 1/loss; none = no ceiling",
    )


class AdaptiveHomotopy(_Ceiling):
    """Like homotopy, with the target learned while training."""

    name: Literal["adaptive_homotopy"] = "adaptive_homotopy"
    alpha: NonNegative = Field(
        default=1.0, description="strength; 1 makes the formula an exact ceiling"
    )
    warmup_steps: Whole | None = Field(
        default=None, description="steps before the target is learned; None = by the run's length"
    )
    adaptation_rate: Fraction | None = Field(
        default=None, description="pace at which the target follows"
    )


class PerLayerHomotopy(_Ceiling):
    """Like homotopy, with a factor per layer from per-layer curvature."""

    name: Literal["per_layer_homotopy"] = "per_layer_homotopy"
    alpha: NonNegative = Field(
        default=1.0, description="strength; 1 makes the formula an exact ceiling"
    )


class CurvatureWarmup(_Ceiling):
    """A ceiling until the edge ratio stays low, then the schedule alone."""

    name: Literal["curvature_warmup"] = "curvature_warmup"
    warmup_steps: Whole | None = Field(
        default=None, description="latest step at which the ceiling hands over"
    )


class CurvatureAdaptive(_Ceiling):
    """Chooses mode and settings from optimizer, batch and budget."""

    name: Literal["curvature_adaptive"] = "curvature_adaptive"
    mode: Literal["guard", "auto-warmup"] | None = Field(
        default=None, description="keep the schedule's warmup, or replace it"
    )


CURVATURE_SPECS: dict[str, type[Spec]] = {
    "homotopy": Homotopy,
    "adaptive_homotopy": AdaptiveHomotopy,
    "per_layer_homotopy": PerLayerHomotopy,
    "curvature_warmup": CurvatureWarmup,
    "curvature_adaptive": CurvatureAdaptive,
}
SCHEDULER_SPECS = {**CURVATURE_SPECS, **FIXED_SPECS}


def _scheduler(value: Any) -> Any:
    if value is False or (isinstance(value, str) and value.lower() in ("none", "null", "off")):
        raise fault(
            "a run always has a scheduler", "scheduler: constant keeps the learning rate fixed"
        )
    return named(value)


SchedulerSpec = Annotated[choice(SCHEDULER_SPECS), BeforeValidator(_scheduler)]
