"""Which rows of a training batch a probe measures."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from homotopy_cli.errors import HomotopyError, first_line
from homotopy_cli.problems.nest import Batch, map_tensors, n_rows, split_rows

APART = 1.25  # factor between the slices' mean loss and the batch's, beyond which none is used
_USER_ERRORS = (HomotopyError, RuntimeError, IndexError, ValueError)
NORMED = 32  # least rows where batch norm makes each row's output depend on the others; our choice


def least_rows(model: nn.Module) -> int:
    """Rows below which a slice's curvature is another network's.

    Batch norm over few rows is another function, and a far sharper one: on a normalised MLP over
    digits λ_max of 32, 16, 8, 4 and 2 rows read 6, 9, 19, 67 and 1,400.
    """
    normed = (
        isinstance(module, nn.modules.batchnorm._BatchNorm)
        and (module.training or not module.track_running_stats)
        for module in model.modules()
    )
    return NORMED if any(normed) else 2


def slice_size(rows: int, fraction: float, least: int = 2) -> int:
    """Rows of a slice: the fraction rounded up, but no fewer than `least`, nor more than all."""
    return min(rows, max(least, math.ceil(rows * fraction)))


def take_rows(batch: Batch, fraction: float, least: int = 2) -> tuple[Batch, float]:
    """Evenly spaced rows of every tensor of the batch's length, and the share they are.

    Spaced, not leading: a batch sorted by length or class would give a biased head.
    """
    rows = n_rows(batch)
    size = slice_size(rows, fraction, least)
    if size == rows:
        return batch, 1.0
    index = torch.arange(size) * rows // size

    def pick(tensor: Tensor) -> Tensor:
        if tensor.ndim == 0 or len(tensor) != rows:
            return tensor
        return tensor[index.to(tensor.device)]

    return map_tensors(batch, pick), size / rows


def why_not_sliced(
    losses: Callable[[Sequence[Batch]], list[float]], batch: Batch, size: int
) -> str:
    """Why slices do not stand for the batch, in words; "" where they do, or nothing is known.

    Their mean loss then is not the batch's, within a factor APART: the loss is a sum over rows, is
    divided by a count that came along, or compares the rows with one another. A slice's Hessian is
    then no estimate of the batch's.

    Args:
        losses: Batches -> their losses; costs one forward pass of each.
        batch: A training batch.
        size: Least rows of a slice.
    """
    rows = n_rows(batch)
    pieces = split_rows(batch, -(-rows // max(1, rows // size)))  # no short one at the end
    try:
        (whole,) = losses([batch])
    except _USER_ERRORS:  # the probe itself will meet it, or the memory is short
        return ""
    try:
        parts = losses(pieces)
    except _USER_ERRORS as error:
        return f"a slice cannot be measured alone ({first_line(error)})"
    counts = [n_rows(piece) for piece in pieces]
    mean = sum(loss * n for loss, n in zip(parts, counts, strict=True)) / sum(counts)
    if not math.isfinite(whole) or not math.isfinite(mean) or whole == mean:
        return ""  # a piece may be without any target
    if whole * mean > 0.0 and 1.0 / APART < mean / whole < APART:
        return ""
    return f"the mean loss of slices is {mean:.3g}, that of the batch {whole:.3g}"
