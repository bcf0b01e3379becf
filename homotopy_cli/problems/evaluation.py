"""One batch's loss as a scalar, with whatever the forward pass raises explained."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from homotopy_cli.errors import HomotopyError, ProblemError
from homotopy_cli.problems.criteria import Loss
from homotopy_cli.problems.misfit import explain_misfit
from homotopy_cli.problems.nest import Batch

T = TypeVar("T")


def scalar(value: Any, what: str) -> Tensor:
    """`value` as a 0-dimensional tensor.

    Raises:
        ProblemError: Not a tensor, or more than one number.
    """
    if not isinstance(value, Tensor):
        raise ProblemError(
            f"{what} returns {type(value).__name__}, a scalar tensor is wanted",
            hint="return the tensor itself, without .item()",
        )
    if value.numel() != 1:
        raise ProblemError(
            f"{what} returns a tensor of shape {list(value.shape)}, a scalar is wanted",
            hint="average it: .mean()",
        )
    return value if value.ndim == 0 else value.reshape(())


def evaluate(
    loss: Loss, model: nn.Module, batch: Batch, source: str = "", *, training: bool = False
) -> Tensor:
    """The loss of one batch; whatever the forward pass raises is explained.

    Args:
        loss, model, batch: What to evaluate.
        source: The batch's file, for errors.
        training: See explain_misfit.
    """
    try:
        value = loss.function(model, batch)
    except HomotopyError as error:
        if source and source not in error.message:
            raise type(error)(f"{source}: {error.message}", hint=error.hint) from error
        raise
    except Exception as error:  # user code: anything may come
        raise explain_misfit(error, model, batch, source, training=training) from error
    return scalar(value, f"loss {loss.name}")


def with_gradients_if_needed(compute: Callable[[], T]) -> T:
    """`compute()`; once more with gradients where a forward pass takes a derivative itself.

    Forces, a PINN: under torch.no_grad() such a model cannot run.
    """
    try:
        return compute()
    except (HomotopyError, RuntimeError) as error:
        if torch.is_grad_enabled() or "does not require grad" not in str(error):
            raise
    with torch.enable_grad():
        return compute()


def prefix(labels: Sequence[str]) -> str:
    """The first label as the start of a message; "" where batches have no names."""
    first = next((label for label in labels if label), "")
    return f"{first}: " if first else ""
