"""Which rows of a training batch a probe measures."""

import math

import torch
from torch import Tensor

from homotopy_cli.problems.nest import Batch, map_tensors, n_rows


def slice_size(rows: int, fraction: float) -> int:
    """Rows of a slice: the fraction rounded up, and 2 (BatchNorm needs them) if there are two."""
    return max(min(2, rows), min(rows, math.ceil(rows * fraction)))


def take_rows(batch: Batch, fraction: float) -> tuple[Batch, float]:
    """Evenly spaced rows of every tensor of the batch's length, and the share they are.

    Spaced, not leading: a batch sorted by length or class would give a biased head.
    """
    rows = n_rows(batch)
    size = slice_size(rows, fraction)
    if size == rows:
        return batch, 1.0
    index = torch.arange(size) * rows // size

    def pick(tensor: Tensor) -> Tensor:
        if tensor.ndim == 0 or len(tensor) != rows:
            return tensor
        return tensor[index.to(tensor.device)]

    return map_tensors(batch, pick), size / rows
