"""How a recipe's steps are run: device, mixed precision, compilation, early end."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from homotopy_cli.recipe.values import (
    Count,
    Flag,
    NonNegative,
    Spec,
    Text,
    closest,
    fault,
    shown,
)

_DEVICES = ("cpu", "cuda", "mps", "auto")


def _device(value: Any) -> Any:
    if not isinstance(value, str) or value in _DEVICES or re.fullmatch(r"cuda:[0-9]{1,3}", value):
        return value
    near = closest({"gpu": "cuda"}.get(value.lower(), value), _DEVICES)
    hint = f"did you mean {near!r}?" if near else "cpu, cuda, cuda:1, mps or auto"
    raise fault(f"{value!r} is not a device", hint)


Device = Annotated[
    Text,
    BeforeValidator(_device),
    Field(json_schema_extra={"pattern": r"^(cpu|cuda(:[0-9]+)?|mps|auto)$"}),
]


class CompileSpec(Spec):
    """torch.compile of the training forward pass."""

    backend: Text = Field(default="inductor", description="as torch.compile takes it")
    mode: Text | None = Field(default=None, description="default, reduce-overhead, max-autotune")
    fullgraph: Flag = Field(default=False, description="refuse to break the graph")
    dynamic: Flag | None = Field(default=None, description="shapes that change; default by torch")


def _switch(value: Any) -> Any:
    """true = all defaults, false = left out."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


def _or_flag(schema: dict[str, Any]) -> None:
    schema["anyOf"].insert(0, {"type": "boolean"})


Compile = Annotated[CompileSpec | None, BeforeValidator(_switch), Field(json_schema_extra=_or_flag)]


def _amp(value: Any) -> Any:
    if value is None or value == "bf16":
        return value
    if value == "fp16" or value == "float16":
        raise fault("fp16 needs loss scaling, which is not offered", "amp: bf16")
    near = isinstance(value, str) and value.lower() in ("bfloat16", "bf-16")
    hint = "did you mean 'bf16'?" if near else "amp: bf16, or leave the key out"
    raise fault(f"{shown(value)} is not a kind of mixed precision", hint)


Amp = Annotated[Literal["bf16"] | None, BeforeValidator(_amp)]


class EarlyStopSpec(Spec):
    """End the run when evaluations stop gaining."""

    patience: Count = Field(
        default=5, description="evaluations in a row without a gain that end the run"
    )
    min_delta: NonNegative = Field(default=0.0, description="smallest gain that counts, loss")
