"""How a step that an optimizer took changed the loss, against what the gradient promised.

With δ = θ' - θ: the promise is a = -g'δ, and q = L(θ') - L(θ) + a is what curvature took back of
it, ½δ'Hδ on a quadratic. One gradient before the step and one forward pass after it, whatever the
optimizer is; no second derivative.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from homotopy_cli.curvature.differences import loss_along
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.linalg.vectors import dot, norm
from homotopy_cli.problems.problem import Problem

ROUNDING = 16.0  # units in the last place of the loss below which nothing was seen; our choice


@dataclass(frozen=True)
class Departure:
    """The point before a step."""

    parameters: Tensor  # (n,)
    gradient: Tensor  # (n,)
    loss: float


@dataclass(frozen=True)
class Change:
    """What the step did."""

    promised: float  # a, loss
    taken_back: float  # q, loss; inf where the step ended in a loss that is none
    loss: float  # before it
    grad_norm: float  # loss/parameter
    rounding: float  # loss; a and q below it are nothing


def depart(problem: Problem) -> Departure:
    """Remember where a step starts: two vectors (n,), one gradient.

    Raises:
        NonFiniteError: The loss or the gradient is not finite.
    """
    with problem.measuring():
        graph = GradientGraph(problem, method="forward_difference")
    return Departure(problem.flat_params(), graph.grad, graph.loss)


def arrive(problem: Problem, start: Departure) -> Change:
    """Compare the point where the step ended with its start: one forward pass.

    Args:
        problem: Of the same batches, at the parameters' present values.
        start: Of the problem before the step.
    """
    change = problem.flat_params().sub_(start.parameters)
    promised = -dot(start.gradient, change)
    after = loss_along(problem, change, 0.0) if math.isfinite(promised) else math.inf
    return Change(
        promised=promised,
        taken_back=after - start.loss + promised if math.isfinite(after) else math.inf,
        loss=start.loss,
        grad_norm=norm(start.gradient),
        rounding=ROUNDING * torch.finfo(problem.dtype).eps * abs(start.loss),
    )
