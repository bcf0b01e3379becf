"""How a model is called with a batch, and what its result holds."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.nest import Batch

TARGET_KEYS = ("labels", "label", "targets", "target", "y")


def split_target(batch: Batch) -> tuple[Batch, Tensor | None]:
    """(inputs, target): the last of a tuple, or the mapping's labels; None when there is none."""
    if isinstance(batch, Mapping):
        key = next((k for k in TARGET_KEYS if isinstance(batch.get(k), Tensor)), None)
        inputs = {k: v for k, v in batch.items() if k != key}
        if len(inputs) == 1:
            inputs = next(iter(inputs.values()))
        return inputs, None if key is None else batch[key]
    if isinstance(batch, list | tuple):
        if len(batch) == 1:
            return batch[0], None
        if isinstance(batch[-1], Tensor):
            return batch[0] if len(batch) == 2 else tuple(batch[:-1]), batch[-1]
    return batch, None


def call_model(model: nn.Module, inputs: Batch) -> Any:
    """model(x), model(*tuple) or model(**mapping); a mapping whole if its keys fit no argument."""
    if isinstance(inputs, Mapping):
        try:
            inspect.signature(model.forward).bind(**inputs)
        except (TypeError, ValueError):
            if _takes_one(model):
                return model(inputs)
        return model(**inputs)
    if isinstance(inputs, list | tuple):
        return model(*inputs)
    return model(inputs)


def result_loss(result: Any) -> Tensor | None:
    """`result["loss"]` or `result.loss` where that is a tensor."""
    loss = result.get("loss") if isinstance(result, Mapping) else getattr(result, "loss", None)
    return loss if isinstance(loss, Tensor) else None


def result_outputs(result: Any) -> Tensor:
    """The scores: the result itself, its `logits`, or the first tensor of a tuple.

    Raises:
        ProblemError: None of these.
    """
    if isinstance(result, Tensor):
        return result
    for name in ("logits", "output", "prediction"):
        value = result.get(name) if isinstance(result, Mapping) else getattr(result, name, None)
        if isinstance(value, Tensor):
            return value
    if isinstance(result, list | tuple) and result and isinstance(result[0], Tensor):
        return result[0]
    raise ProblemError(
        f"the model returns {describe_result(result)}, not a tensor of outputs",
        hint="--loss FILE.py:CALLABLE with loss(model, batch) -> scalar",
    )


def describe_result(result: Any) -> str:
    """A result in words: "a float32 tensor of shape [4, 3]", "Out with loss, logits"."""
    if isinstance(result, Tensor):
        kind = str(result.dtype).removeprefix("torch.")
        return f"a {kind} tensor of shape {list(result.shape)}"
    if isinstance(result, Mapping):
        return f"{type(result).__name__} with {', '.join(map(str, result)) or 'nothing'}"
    if isinstance(result, list | tuple):
        return f"a {type(result).__name__} of {len(result)}"
    return f"a {type(result).__name__}"


def _takes_one(model: nn.Module) -> bool:
    """`forward` can be called with a single positional argument."""
    try:
        inspect.signature(model.forward).bind(None)
    except (TypeError, ValueError):
        return False
    return True
