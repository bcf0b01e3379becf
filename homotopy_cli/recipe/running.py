"""How a recipe's steps are run: the device."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from homotopy_cli.recipe.values import Text, closest, fault

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
