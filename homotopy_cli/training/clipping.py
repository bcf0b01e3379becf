"""Gradient clipping between backward() and optimizer.step()."""

from typing import Any

import torch
from torch import Tensor

from homotopy_cli.schedulers.clip import curvature_aware_clip
from homotopy_cli.schedulers.rules import clip_limit


def clip(spec: Any, params: list[Tensor], norm: float, kappa: float) -> float:
    """Scale the gradients in place as the recipe says; the factor in (0, 1] that was applied.

    `norm` is torch.nn.utils.clip_grad_norm_ itself, so that a hand-written loop gives the same
    bits. `curvature_aware` lowers the limit where κ is above its reference.

    Args:
        spec: The recipe's ClipSpec, or None for no clipping.
        params: Whose `.grad` to scale.
        norm: ‖g‖ before clipping.
        kappa: Newest curvature ratio, 1/loss; NaN before the first probe.
    """
    if spec is None:
        return 1.0
    if spec.name == "norm":
        torch.nn.utils.clip_grad_norm_(params, spec.max_norm)
        return min(1.0, spec.max_norm / (norm + 1e-6))
    curvature_aware_clip(params, kappa, spec.max_norm)
    return min(1.0, clip_limit(spec.max_norm, kappa) / (norm + 1e-6))
