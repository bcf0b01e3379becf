"""Hessian products without a second backward pass.

Both evaluate the gradient at parameters other than the model's own. Tensors are exchanged for
the time of one evaluation, so the weights themselves are never written to.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from homotopy_cli.curvature.backward import gradients
from homotopy_cli.linalg.vectors import norm
from homotopy_cli.problems.problem import Problem


def central_difference(
    problem: Problem,
    names: Sequence[str],
    v: Tensor,
    gradient: Callable[[tuple[str, ...]], Tensor],
    *,
    step: float,
) -> Tensor:
    """Return (g(θ + hv) - g(θ - hv)) / 2h restricted to `names`: H_bb v to second order in h.

    At kinks (ReLU, top-k routing) a finite step sees other pieces of the function, and the
    result can differ from the second derivative by any factor.

    Args:
        problem: Where to evaluate.
        names: The parameters that move, in the order of the problem.
        v: Shape (n_b,).
        gradient: names -> ∇L restricted to them, at the parameters `problem` holds.
        step: ‖hv‖, see steps.py.
    """
    length = norm(v)
    if length == 0.0:
        return torch.zeros_like(v)
    h = step / length
    above, below = gradients_along(problem, names, v, (h, -h), gradient)
    return (above - below) / (2.0 * h)


def forward_difference(
    v: Tensor,
    beside: Callable[[Tensor, Sequence[float]], list[Tensor]],
    *,
    step: float,
    here: Tensor,
) -> Tensor:
    """Return (g(θ + hv) - g(θ)) / h: H_bb v to first order in h, for one gradient.

    Args:
        v: Shape (n_b,).
        beside: (v, steps) -> ∇L restricted to the block at θ + s·v for each s.
        step: ‖hv‖, see steps.py.
        here: g(θ) restricted to the block, shape (n_b,).
    """
    length = norm(v)
    if length == 0.0:
        return torch.zeros_like(v)
    h = step / length
    (above,) = beside(v, (h,))
    return (above - here) / h


def gradients_along(
    problem: Problem,
    names: Sequence[str],
    v: Tensor,
    steps: Sequence[float],
    gradient: Callable[[tuple[str, ...]], Tensor],
) -> list[Tensor]:
    """Return ∇L restricted to `names` at θ + s·v for each s of `steps`.

    Args:
        problem: Where to evaluate; its weights are not written to.
        names: The parameters that move, in the order of the problem.
        v: Shape (n_b,).
        steps: Signed multiples of v.
        gradient: names -> ∇L restricted to them, at the parameters `problem` holds.
    """
    params = [problem.params[name] for name in names]
    parts = [
        part.view(p.shape)
        for part, p in zip(v.split([p.numel() for p in params]), params, strict=True)
    ]
    found = []
    for step in steps:
        moved = {
            name: torch.add(param.detach(), part, alpha=step).requires_grad_()
            for name, param, part in zip(names, params, parts, strict=True)
        }
        with _exchanged(problem, moved):
            found.append(gradient(tuple(names)))
    return found


def loss_along(problem: Problem, v: Tensor, step: float) -> float:
    """Return L(θ + step·v), for v of shape (n,): one forward pass; inf where it is not finite."""
    parts = v.split([p.numel() for p in problem.params.values()])
    moved = {
        name: torch.add(param.detach(), part.view(param.shape), alpha=step)
        for (name, param), part in zip(problem.params.items(), parts, strict=True)
    }
    with _exchanged(problem, moved):  # no leaf: no graph, but for what the model differentiates
        parts = problem.reducer.together(
            lambda: sum(w * problem.batch_loss(i).item() for i, w in enumerate(problem.weights))
        )
    value = math.fsum(parts) if all(map(math.isfinite, parts)) else math.inf
    return value


def forward_over_reverse(problem: Problem, names: Sequence[str], v: Tensor) -> Tensor:
    """Return H_bb v as the tangent of the gradient along v: exact, no graph kept.

    Args:
        problem: Where to evaluate.
        names: The parameters that move, in the order of the problem.
        v: Shape (n_b,).
    """
    params = [problem.params[name] for name in names]
    parts = v.split([p.numel() for p in params])
    total = torch.zeros_like(v)
    with problem.measuring(), forward_ad.dual_level(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, about torch.jit.script
        duals = {
            name: forward_ad.make_dual(param.detach().requires_grad_(), part.view(param.shape))
            for name, param, part in zip(names, params, parts, strict=True)
        }
        with _exchanged(problem, duals):
            for i in range(len(problem.batches)):
                loss = problem.weights[i] * problem.batch_loss(i)
                if not loss.requires_grad:
                    continue
                grads = gradients(loss, list(duals.values()))
                tangents = [None if g is None else forward_ad.unpack_dual(g).tangent for g in grads]
                total += torch.cat(
                    [
                        torch.zeros_like(part) if t is None else t.detach().reshape(-1)
                        for t, part in zip(tangents, parts, strict=True)
                    ]
                )
    return total


def tangent(
    problem: Problem, names: Sequence[str], v: Tensor, function: Callable[[], Tensor]
) -> Tensor | None:
    """Return the derivative of a function of θ along v in forward mode; None where it has none."""
    params = [problem.params[name] for name in names]
    with problem.measuring(), forward_ad.dual_level(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, about torch.jit.script
        duals = {
            name: forward_ad.make_dual(param.detach().requires_grad_(), part.view(param.shape))
            for name, param, part in zip(
                names, params, v.split([p.numel() for p in params]), strict=True
            )
        }
        with _exchanged(problem, duals):
            found = forward_ad.unpack_dual(function()).tangent
    return None if found is None else found.detach()


@contextmanager
def _exchanged(problem: Problem, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the problem, and the model it has borrowed, hold other parameters for a while."""
    kept = {name: problem.params[name] for name in tensors}
    with problem.measuring():
        problem.params.update(tensors)
        _put(problem, {id(kept[name]): tensor for name, tensor in tensors.items()})
        try:
            yield
        finally:
            problem.params.update(kept)
            _put(problem, {id(tensor): kept[name] for name, tensor in tensors.items()})


def _put(problem: Problem, replacements: Mapping[int, Tensor]) -> None:
    """Exchange tensors in every module of the borrowed model, by identity."""
    for module in [] if problem.model is None else problem.model.modules():
        for name, parameter in module._parameters.items():
            if id(parameter) in replacements:
                module._parameters[name] = replacements[id(parameter)]
        if isinstance(module, nn.RNNBase):  # it also keeps its weights in a list
            module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
