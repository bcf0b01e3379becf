"""How a step that an optimizer took changed the loss, against what the gradient promised.

With δ = θ' - θ: the promise is a = -g'δ, and q = L(θ') - L(θ) + a is what curvature took back of
it, ½δ'Hδ on a quadratic. One gradient and a forward pass before the step and a forward pass after
it, whatever the optimizer is; no second derivative.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from homotopy_cli.curvature.differences import loss_along
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.linalg.vectors import dot, generator, norm, signs
from homotopy_cli.problems.problem import Problem

SMALL = 1e-4  # relative change that shows the noise; all three are our choice
NOISY = 4.0  # times the noise: nothing was seen
ROUNDING = 16.0  # units in the last place of the loss below which nothing was seen


@dataclass(frozen=True)
class Departure:
    """The point before a step."""

    parameters: Tensor  # (n,)
    gradient: Tensor  # (n,)
    loss: float
    noise: float  # what half precision somewhere in the model does to the loss


@dataclass(frozen=True)
class Change:
    """What the step did."""

    promised: float  # a, loss
    taken_back: float  # q, loss; inf where the step ended in a loss that is none
    loss: float  # before it
    grad_norm: float  # loss/parameter
    rounding: float  # loss; a and q below it are nothing


def depart(problem: Problem) -> Departure:
    """Remember where a step starts: two vectors (n,), one gradient, one forward pass.

    Raises:
        NonFiniteError: The loss or the gradient is not finite.
    """
    with problem.measuring():
        graph = GradientGraph(problem, method="forward_difference")
    return Departure(problem.flat_params(), graph.grad, graph.loss, _noise(problem, graph))


def _noise(problem: Problem, graph: GradientGraph) -> float:
    """|L(θ + d) - L(θ) - g'd| for a d of ±1e-4 of each parameter: rounding inside the model.

    On a smooth loss in full precision next to nothing; where the forward pass rounds to half
    precision inside (autocast), as much as rounding moves it.
    """
    theta = problem.flat_params()
    like = {"dtype": theta.dtype, "device": theta.device}
    tiny = theta * signs(theta.numel(), generator=generator(0), **like)
    tiny.mul_(SMALL)
    return abs(loss_along(problem, tiny, 1.0) - graph.loss - dot(graph.grad, tiny))


def arrive(problem: Problem, start: Departure, own: Sequence[bool]) -> Change | None:
    """Compare the point where the step ended with its start: one forward pass.

    Args:
        problem: Of the same batches, at the parameters' present values.
        start: Of the problem before the step.
        own: Whether the optimizer holds each of the problem's parameters; what else has moved is
            put back for the forward pass.

    Returns:
        None where nothing has moved.
    """
    change = problem.flat_params().sub_(start.parameters)
    back = torch.zeros_like(change)
    at = 0
    for mine, leaf in zip(own, problem.params.values(), strict=True):
        if not mine:
            back[at : at + leaf.numel()] = -change[at : at + leaf.numel()]
        at += leaf.numel()
    change += back
    if not bool(change.any()):
        return None
    promised = -dot(start.gradient, change)
    after = loss_along(problem, back, 1.0) if math.isfinite(promised) else math.inf
    return Change(
        promised=promised,
        taken_back=after - start.loss + promised if math.isfinite(after) else math.inf,
        loss=start.loss,
        grad_norm=norm(start.gradient),
        rounding=ROUNDING * torch.finfo(problem.dtype).eps * abs(start.loss) + NOISY * start.noise,
    )
