"""torch's own criteria: what their means divide by, and their weights in another dtype."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from homotopy_cli.problems.counting import class_mass, count_elements
from homotopy_cli.problems.nest import Batch


def in_dtype(
    criterion: Callable[..., Tensor], outputs: Any, casts: dict[torch.dtype, Callable[..., Tensor]]
) -> Callable[..., Tensor]:
    """The criterion, or a copy whose weights have the outputs' float32 or float64."""
    kind = outputs.dtype if isinstance(outputs, Tensor) else None
    if kind not in (torch.float32, torch.float64) or not isinstance(criterion, nn.Module):
        return criterion
    held = [t.dtype for t in (*criterion.parameters(), *criterion.buffers())]
    if all(d == kind for d in held if d.is_floating_point):
        return criterion
    if kind not in casts:
        casts[kind] = deepcopy(criterion).to(outputs.device, kind)
    return casts[kind]


_OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, F.cross_entropy, F.nll_loss)
_OF_ELEMENTS = (
    *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss),
    *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy),
    F.binary_cross_entropy_with_logits,
)


def criterion_mass(criterion: Any, ignored: int) -> Callable[[Batch], float] | None:
    """What torch's own criteria divide by; None for any other, whose terms are counted."""
    weight = getattr(criterion, "weight", None)
    if type(criterion) in _OF_CLASSES or criterion in _OF_CLASSES:
        return lambda batch: class_mass(batch, weight, ignored=ignored)
    if type(criterion) in _OF_ELEMENTS or criterion in _OF_ELEMENTS:
        return count_elements
    return None
