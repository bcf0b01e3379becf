"""Recipe: everything `homotopy train` can be told, with every default.

Units are in the descriptions; `recipes/README.md` is generated from this file and tested
current.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from homotopy_cli.recipe.datasets import DATA_SPECS, Data, DataSpec
from homotopy_cli.recipe.models import MODEL_SPECS, Model, ModelSpec
from homotopy_cli.recipe.optimizers import TORCH_SPECS, OptimizerSpec
from homotopy_cli.recipe.running import Amp, Compile, Device, EarlyStopSpec
from homotopy_cli.recipe.schedules import (
    CURVATURE_SPECS,
    FIXED_SPECS,
    SCHEDULER_SPECS,
    Homotopy,
    SchedulerSpec,
    Signal,
    named,
)
from homotopy_cli.recipe.values import (
    Count,
    Flag,
    Fraction,
    Integer,
    Positive,
    Share,
    Spec,
    Text,
    Whole,
    closest,
    fault,
    shown,
)

__all__ = [
    "CURVATURE_SPECS",
    "DATA_SPECS",
    "FIXED_SPECS",
    "MODEL_SPECS",
    "SCHEDULER_SPECS",
    "TORCH_SPECS",
    "ClipSpec",
    "CurvatureSpec",
    "DataSpec",
    "ModelSpec",
    "OptimizerSpec",
    "Recipe",
    "SchedulerSpec",
]

LOSSES = ("cross_entropy", "next_token", "mse", "bce", "output")
AUTO_BUDGET = 0.03  # of HomotopyLR in mode auto
_FLOAT_MAX = {"float32": 3.4028234663852886e38, "float64": 1.7976931348623157e308}


class CurvatureSpec(Spec):
    """What the probe measures while training, under every scheduler, and what it may cost."""

    signal: Signal = Field(default="auto", description="curvature that schedulers act on")
    freq: Whole = Field(
        default=10, description="steps between probes; 0 = no probe under a fixed schedule"
    )
    budget: Fraction = Field(
        default=0.05,
        description="largest share of the run's work spent probing, in mode auto by default 0.03; "
        "0 = no limit",
    )
    probe_fraction: Share | None = Field(
        default=None,
        description="share of the batch's rows a probe measures; default 1/8, halved in the first "
        "steps",
    )
    layers_freq: Whole = Field(
        default=10, description="every so many probes, also per layer; 0 = never"
    )


class ClipSpec(Spec):
    """Gradient clipping before the step."""

    name: Literal["norm", "curvature_aware"] = Field(
        default="norm",
        description="by the gradient's norm, at max_norm or at a limit that falls as κ rises",
    )
    max_norm: Positive = Field(default=1.0, description="largest gradient norm, loss/parameter")


def _loss(value: Any) -> Any:
    if not isinstance(value, str) or ":" in value or value in LOSSES:
        return value
    near = closest(value, LOSSES)
    hint = f"did you mean {near!r}?" if near else f"one of {', '.join(LOSSES)}, or model.py:loss"
    raise fault(f"{value!r} is neither a known loss nor file.py:callable", hint)


def _out(value: Any) -> Any:
    if isinstance(value, str) and not value.lower().endswith((".h5", ".hdf5")):
        raise fault(f"{value!r} is not an HDF5 file name", f"{value.rstrip('/')}/run.h5")
    return value


class Recipe(Spec):
    """One training run.

    `model`, `loss` and `data` as text are targets (`file.py:callable`,
    `package.module:callable`) or, for data, a .npz file; relative paths start at the recipe's
    folder. `out` is relative to the current folder.
    """

    name: Text | None = Field(default=None, description="of the run; default the file's name")
    model: Model = Field(description="a zoo model, or the target of a callable that builds one")
    loss: Annotated[Text, BeforeValidator(_loss)] | None = Field(
        default=None, description=f"{', '.join(LOSSES)}, or a target; default by the data"
    )
    data: Data = Field(description="a kind of data, a .npz file, or a target")
    optimizer: Annotated[OptimizerSpec, BeforeValidator(named)] = Field(
        description="a torch.optim class in lower case, or package.module:Class"
    )
    scheduler: SchedulerSpec = Field(
        default_factory=Homotopy, description="what sets the learning rate; default homotopy"
    )
    curvature: CurvatureSpec = Field(
        default_factory=CurvatureSpec, description="what is measured while training"
    )
    clip: ClipSpec | None = Field(default=None, description="gradient clipping; default none")
    steps: Count = Field(description="optimizer steps")
    batch_size: Count = Field(default=32, description="examples per step")
    eval_every: Whole = Field(
        default=0, description="steps between evaluations on held-out data; 0 = at the end only"
    )
    eval_batches: Count = Field(default=8, description="batches per evaluation")
    checkpoint_every: Whole = Field(
        default=0,
        description="steps between checkpoints; 0 = by the clock (every 30 s at the soonest, at "
        "most 1 % of the time) and at the end",
    )
    keep_best: Flag = Field(
        default=False,
        description="keep the weights of the best evaluation in best.pt beside run.pt",
    )
    early_stop: EarlyStopSpec | None = Field(
        default=None, description="end the run when evaluations stop gaining; default never"
    )
    max_seconds: Positive | None = Field(
        default=None,
        description="training time after which the run saves and ends, to be resumed; per start",
    )
    seed: Integer = Field(default=0, description="of weights, data order, dropout and probes")
    out: Annotated[Text, BeforeValidator(_out)] | None = Field(
        default=None, description="the log; default runs/NAME/run.h5; the checkpoint lies beside"
    )
    threads: Whole = Field(default=0, description="CPU threads; 0 = leave torch's setting")
    dtype: Literal["float32", "float64"] = Field(
        default="float32", description="of weights and arithmetic"
    )
    device: Device = Field(
        default="cpu",
        description="cpu, cuda, cuda:N, mps, or auto: cuda where there is one, else cpu",
    )
    amp: Amp = Field(
        default=None,
        description="bf16: the training forward pass under autocast; weights, probes and "
        "evaluations stay float32",
    )
    accumulate: Count = Field(
        default=1,
        description="parts that the batch of one step is split into, to save memory; "
        "batch_size stays the examples per step",
    )
    compile: Compile = Field(
        default=None,
        description="torch.compile for the training forward pass: true, or {backend, mode, "
        "fullgraph, dynamic}",
    )
    activation_checkpointing: Flag = Field(
        default=False,
        description="compute the activations inside blocks again in the backward pass, to save "
        "memory",
    )
    parallel: Literal["ddp", "fsdp"] | None = Field(
        default=None,
        description="under torchrun: replicas (ddp) or shards (fsdp); default ddp",
    )
    profiles: dict[Text, dict[str, Any]] = Field(
        default_factory=dict,
        description="named sets of changes, dotted keys as in --set; chosen by --profile NAME",
    )

    @model_validator(mode="before")
    @classmethod
    def _a_scheduler_is_never_null(cls, value: Any) -> Any:
        if isinstance(value, dict) and "scheduler" in value and value["scheduler"] is None:
            value = {**value, "scheduler": False}  # null would mean the default, homotopy
        return value

    @model_validator(mode="before")
    @classmethod
    def _mode_auto_probes_less(cls, value: Any) -> Any:
        scheduler = value.get("scheduler") if isinstance(value, dict) else None
        if isinstance(scheduler, dict) and scheduler.get("mode") == "auto":
            told = value.get("curvature") or {}
            if isinstance(told, dict):
                value = {**value, "curvature": {"budget": AUTO_BUDGET, **told}}
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "Recipe":
        lr = getattr(self.optimizer, "lr", None)
        largest = _FLOAT_MAX[self.dtype]
        if lr is not None and lr > largest:
            raise fault(
                f"{shown(lr)} does not fit into {self.dtype} (largest {largest:.2g})",
                "a smaller learning rate",
                ("optimizer", "lr"),
            )
        if getattr(self.optimizer, "nesterov", None):
            if not getattr(self.optimizer, "momentum", None) and self.optimizer.name == "sgd":
                raise fault(
                    "Nesterov momentum needs a momentum",
                    "momentum: 0.9, or nesterov: false",
                    ("optimizer", "nesterov"),
                )
            if getattr(self.optimizer, "dampening", None):
                raise fault(
                    "Nesterov momentum needs dampening 0",
                    "dampening: 0",
                    ("optimizer", "dampening"),
                )
        for key in ("keep_best", "early_stop"):
            if getattr(self, key) and not self.eval_every:
                raise fault("needs evaluations on the way", "eval_every: 100", (key,))
        if self.amp is not None and self.dtype != "float32":
            raise fault(f"bf16 needs dtype float32, not {self.dtype}", "dtype: float32", ("amp",))
        if self.accumulate > self.batch_size:
            raise fault(
                f"{self.accumulate} parts of {self.batch_size} examples",
                f"at most {self.batch_size}, or a larger batch_size",
                ("accumulate",),
            )
        if self.device == "mps" and self.dtype == "float64":
            raise fault("mps has no float64", "dtype: float32", ("dtype",))
        if not -(2**63) <= self.seed < 2**63:
            raise fault(f"{self.seed} does not fit into 64 bits", "seed: 0", ("seed",))
        return self

    def resolved(self) -> dict[str, Any]:
        """Every setting, defaults included and profiles applied, as JSON-able values."""
        return self.model_dump(mode="json", exclude_none=True, exclude={"profiles"})
