"""Refuse a loss or gradient that is not finite, by the name of the first parameter it shows in."""

from collections.abc import Mapping

import torch
from torch import Tensor

from homotopy_cli.errors import NonFiniteError


def require_finite(loss: float, grads: Mapping[str, Tensor]) -> None:
    """Raise NonFiniteError unless the loss and the gradient of every parameter are finite."""
    if not abs(loss) < float("inf"):
        raise NonFiniteError(
            f"the loss is {loss}", hint="check the weights and the batch for NaN and inf"
        )
    parts = list(grads.values())
    if not parts or bool(torch.stack([torch.isfinite(part).all() for part in parts]).all()):
        return  # one answer to wait for, not one per parameter
    for name, part in grads.items():
        bad = int((~torch.isfinite(part)).sum())
        if bad:
            raise NonFiniteError(
                f"the gradient of {name!r} holds {bad} non-finite values of {part.numel()}",
                hint="the loss is finite but its gradient overflows: try --dtype float64",
            )
