"""How a user's loss wants to be called, by the names of its arguments."""

import inspect
from collections.abc import Callable
from typing import Any

EXPECTED = "a loss of your own is loss(model, batch), or loss(outputs, targets) by these names"
_OUTPUTS = {
    *("out", "outs", "output", "outputs", "logit", "logits", "pred", "preds", "prediction"),
    *("predictions", "predicted", "score", "scores", "input", "y_hat", "yhat", "y_pred"),
    *("model_output", "model_outputs"),
}
_TARGETS = {
    *("y", "target", "targets", "label", "labels", "y_true", "truth", "tgt", "gt"),
    *("gold", "true", "expected"),
}


def takes_outputs(function: Callable[..., Any]) -> bool:
    """Whether a function's first two arguments are a model's outputs and the targets.

    Both names must say so: of loss(output, batch), or of names that say nothing, it is
    assumed that they are the model and the batch.
    """
    try:
        held = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    needed = [p for p in held if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(needed) != 2 or held[:2] != needed:
        return False
    outputs, targets = (p.name.lower() for p in needed)
    return outputs in _OUTPUTS and targets in _TARGETS
