"""κ = ‖H‖₂/‖g‖², and the cases in which that quotient means nothing."""

import math

ROUNDINGS = 8.0  # a sum over a backward pass collects several roundings: our choice
ZERO_GRADIENT = "undefined: the gradient is exactly zero"


def noise_floor(
    *, eps: float, loss: float, hessian_norm: float, param_norm: float, n_params: int
) -> float:
    """Return the size below which ‖g‖ is indistinguishable from rounding.

    Two rounding errors set it. Moving every parameter by one rounding, in random directions,
    moves g by about eps·‖H‖·‖θ‖/√n. And a gradient whose effect over the whole length ‖θ‖ is
    less than the rounding of the loss, eps·|L|, cannot be told from a constant loss.

    Args:
        eps: Of the dtype the gradient was computed in.
        loss: L.
        hessian_norm: ‖H‖₂ of the same block as the gradient.
        param_norm: ‖θ‖ of the whole problem.
        n_params: Of the whole problem.
    """
    moved = hessian_norm * param_norm / math.sqrt(n_params)
    flat = abs(loss) / max(param_norm, 1.0)
    return ROUNDINGS * eps * max(moved, flat)


def kappa(
    hessian_norm: float | None, grad_norm: float, noise_floor: float = 0.0
) -> tuple[float | None, str]:
    """Return (‖H‖₂/‖g‖², "") in 1/loss, or (None, the reason in words).

    Args:
        hessian_norm: ‖H‖₂, None when it was not measured.
        grad_norm: ‖g‖.
        noise_floor: Gradients at or below this are rounding; see `noise_floor`.
    """
    if hessian_norm is None:
        return None, "not measured: the Hessian norm needs both ends of the spectrum"
    if grad_norm == 0.0:
        return None, ZERO_GRADIENT
    if grad_norm <= noise_floor:
        return None, (
            f"undefined: the gradient is at rounding level "
            f"(‖g‖ = {grad_norm:.2g}, rounding {noise_floor:.2g})"
        )
    value = hessian_norm / grad_norm / grad_norm
    if not math.isfinite(value):
        return None, f"undefined: ‖H‖/‖g‖² overflows (‖g‖ = {grad_norm:.2g})"
    return value, ""
