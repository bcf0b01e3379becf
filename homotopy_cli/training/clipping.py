"""Gradient clipping between backward() and optimizer.step()."""

from typing import Any

import torch
from torch import Tensor

from homotopy_cli.schedulers.clip import curvature_aware_clip
from homotopy_cli.schedulers.rules import clip_limit


def clip(
    spec: Any, params: list[Tensor], norm: float, kappa: float, *, shards: bool = False
) -> float:
    """Scale the gradients in place as the recipe says; the factor in (0, 1] that was applied.

    `norm` is torch.nn.utils.clip_grad_norm_ itself, so that a hand-written loop gives the same
    bits. `curvature_aware` lowers the limit where κ is above its reference.

    Args:
        spec: The recipe's ClipSpec, or None for no clipping.
        params: Whose `.grad` to scale.
        norm: ‖g‖ before clipping.
        kappa: Newest curvature ratio, 1/loss; NaN before the first probe.
        shards: The gradients are DTensors; `norm` is that of the whole gradient.
    """
    if spec is None:
        return 1.0
    if shards:
        curved = spec.name == "curvature_aware" and kappa == kappa
        limit = clip_limit(spec.max_norm, kappa) if curved else spec.max_norm
        factor = min(1.0, limit / (norm + 1e-6))
        with torch.no_grad():
            torch._foreach_mul_([p.grad.to_local() for p in params if p.grad is not None], factor)
        return factor
    if spec.name == "norm":
        torch.nn.utils.clip_grad_norm_(params, spec.max_norm)
        return min(1.0, spec.max_norm / (norm + 1e-6))
    curvature_aware_clip(params, kappa, spec.max_norm)
    return min(1.0, clip_limit(spec.max_norm, kappa) / (norm + 1e-6))
