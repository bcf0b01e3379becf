"""Batch files and the dtype of batches."""

import torch

from homotopy_cli.problems.nest import Batch, map_tensors


def cast_floats(
    batch: Batch, dtype: torch.dtype, device: torch.device | str | None = None
) -> Batch:
    """Floating tensors in `dtype`, all tensors on `device`; integers and bools keep their dtype."""
    return map_tensors(
        batch,
        lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None),
    )
