"""How long a finite step may be: measured, since no rule from ‖θ‖ alone holds.

A difference of gradients errs by truncation, which grows with the step, and by rounding, which
falls. Both were measured on networks along the steepest directions: with the textbook step
∛eps·‖θ‖ a float32 GPT's λ_max comes out 90 % wrong, with the step below to 3e-5.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from homotopy_cli.linalg.vectors import gaussian, generator, norm, unit, whole_length

_FIRST = 30.0  # the first trial step is this much shorter than ∛eps·max(1, ‖θ‖): our choice
_CURVED = 0.3  # a trial whose even part is above this share has left the Taylor regime
_TRIALS = 4


@dataclass(frozen=True)
class Steps:
    """Step lengths ‖hv‖ in parameter units, and the relative error ‖error‖/‖Hv‖ to expect.

    The errors hold along the gradient, where they were measured, and along the top
    eigenvectors, which behave alike; along a random direction rounding is a larger share.
    """

    central: float
    central_error: float
    forward: float
    forward_error: float


def calibrate(
    gradients: Callable[[Tensor, Sequence[float]], list[Tensor]],
    grad: Tensor,
    *,
    param_norm: float,
) -> Steps:
    """Choose steps from two gradients on both sides of θ along g.

    (g(θ+hd) + g(θ-hd) - 2g(θ))/2h, the even part, is the truncation error of a forward
    difference, κh‖Hd‖; that of a central one is about 4(κh)²‖Hd‖ (fitted, three networks).
    Rounding is δ/h with δ = eps(4‖g‖ + ‖θ‖‖Hd‖ min(1, √(10/n))). The sums are least at
    h = √(δ/κ‖Hd‖) and ∛(δ/4κ²‖Hd‖).

    Args:
        gradients: (unit direction, steps) -> g(θ + s·direction) for each step s.
        grad: g(θ), shape (n,); a random direction stands in for it where it is zero.
        param_norm: ‖θ‖.
    """
    n, eps = whole_length(grad), torch.finfo(grad.dtype).eps
    direction = unit(grad)
    if direction is None:
        draw = gaussian(n, generator=generator(0), dtype=grad.dtype, device=grad.device)
        direction = draw / norm(draw)
    longest = eps ** (1 / 3) * max(1.0, param_norm)
    h = longest / _FIRST
    even = odd = 0.0
    for trial in range(_TRIALS):
        above, below = gradients(direction, (h, -h))
        even = norm(above + below - 2.0 * grad) / (2.0 * h)
        odd = norm(above - below) / (2.0 * h)
        if even <= _CURVED * odd or trial == _TRIALS - 1:
            break
        h /= 10.0
    noise = eps * (4.0 * norm(grad) + param_norm * odd * min(1.0, math.sqrt(10.0 / n)))
    if not 0.0 < odd < math.inf:
        return Steps(longest, 1.0, longest, 1.0)
    bend = max(even - noise / h, 0.0) / (odd * h)
    central = forward = longest
    if bend > 0.0:
        central = min(longest, (noise / (4.0 * bend**2 * odd)) ** (1 / 3))
        forward = min(longest, math.sqrt(noise / (bend * odd)))
    return Steps(
        central=central,
        central_error=4.0 * (bend * central) ** 2 + noise / (central * odd),
        forward=forward,
        forward_error=bend * forward + 2.0 * noise / (forward * odd),
    )
