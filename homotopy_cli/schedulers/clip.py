"""curvature_aware_clip: gradient clipping, tighter where the curvature ratio is high."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from homotopy_cli.schedulers.rules import clip_limit


def curvature_aware_clip(
    parameters: Tensor | Iterable[Tensor | None],
    curvature: float,
    max_norm: float = 1.0,
    *,
    reference: float = 1e4,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale gradients in place so that their total norm is at most max_norm/(1 + κ/reference).

    With κ = 0 it is torch.nn.utils.clip_grad_norm_. Under Adam a clip that acts at every step
    cancels out of the update; it bounds single outliers.

    Args:
        parameters: Parameters, whose `.grad` is clipped, or the gradients themselves (tensors
            that do not require grad); entries that are None or have no gradient are skipped.
        curvature: κ = ‖H‖₂/‖g‖², 1/loss: `scheduler.current_curvature`. NaN, as before the
            first probe, counts as 0.
        max_norm: Limit at κ = 0.
        reference: κ at which the limit is halved, 1/loss.
        norm_type: p of the norm.
        error_if_nonfinite: Raise where the total norm is NaN or infinite.

    Returns:
        The total norm before clipping, a 0-d tensor, like torch's.

    Raises:
        RuntimeError: Non-finite norm and error_if_nonfinite.
        ValueError: max_norm or reference is not positive.
        NotImplementedError: A sparse gradient, of which torch takes no norm.
    """
    if not (max_norm > 0.0 and reference > 0.0):
        raise ValueError(f"max_norm {max_norm} and reference {reference} must be positive")
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    grads = [g for g in (_gradient(t) for t in given) if g is not None]
    total = get_total_norm(grads, norm_type, error_if_nonfinite)
    limit = clip_limit(max_norm, float(curvature), reference)
    coefficient = torch.clamp(limit / (total + 1e-6), max=1.0)  # torch's own rounding guard
    with torch.no_grad():
        for grad in grads:
            grad.mul_(coefficient.to(grad.device))
    return total


def _gradient(tensor: Tensor | None) -> Tensor | None:
    """The gradient an entry stands for."""
    if tensor is None:
        return None
    return tensor.grad if tensor.requires_grad else tensor
