"""The optimizer's own metric: the diagonal P with update ≈ -lr · P⁻¹g.

Stability of an adaptive optimizer is governed by λ_max(P⁻¹H), not by λ_max(H) (Cohen et al.
2022). P includes the current gradient, as if the step had been taken: it is the metric the
*next* update will use, and in the first steps the old one is off by orders of magnitude.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from homotopy_cli.curvature.backward import dense
from homotopy_cli.curvature.families import UNKNOWN, is_decoupled, optimizer_family, saved_family
from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.sharded import full

_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "grad_avg", "sum")
_SETTINGS = (
    "lr",
    "betas",
    "eps",
    "alpha",
    "momentum",
    "dampening",
    "weight_decay",
    "momentum_decay",
    "lr_decay",
    "initial_accumulator_value",
)


def preconditioner(
    optimizer: Optimizer,
    params: Sequence[Tensor],
    *,
    include_gradient: bool = True,
) -> Tensor | None:
    """Return the diagonal P of a live optimizer, shape (n,), or None for P = I (SGD).

    Args:
        optimizer: Adam, AdamW (AMSGrad too), NAdam, RMSprop (centered too), Adagrad or SGD,
            subclasses included.
        params: The parameters wanted, in the order of the flat vector. One that the optimizer
            does not hold is never moved: P is infinite there.
        include_gradient: Count the current `.grad` into the second moments, as `step()` will.

    Raises:
        ProblemError: The optimizer has no known diagonal metric, or none yet.
    """
    family = optimizer_family(optimizer)
    if family == UNKNOWN:
        raise ProblemError(
            f"{type(optimizer).__name__} has no known diagonal metric",
            hint="known: Adam, AdamW, NAdam, RMSprop, Adagrad, SGD; else measure the Hessian",
        )
    if family == "sgd":
        return None
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    parts = []
    for param in params:
        group = groups.get(id(param))
        state = optimizer.state.get(param, {}) if group is not None else {}
        counted = param.grad if include_gradient else None
        parts.append(_diagonal(family, group, *_whole(state, param, counted)))
    return _joined(parts, params, type(optimizer).__name__)


def saved_preconditioner(
    state_dict: Mapping[str, Any],
    params: Sequence[Tensor],
    *,
    family: str | None = None,
    grads: Sequence[Tensor | None] | None = None,
) -> Tensor | None:
    """Return P of an optimizer's `state_dict()`, shape (n,), or None for P = I (SGD).

    Args:
        state_dict: With `state` and `param_groups`; it numbers the parameters in the order in
            which the optimizer was given them.
        params: The same parameters in the same order: `model.parameters()` as a rule.
        family: "adam", "adamw", "nadam", "rmsprop", "adagrad" or "sgd"; recognised by its
            settings when None.
        grads: Current gradients to count in; none when None.

    Raises:
        ProblemError: It belongs to other parameters, or to an unknown optimizer.
    """
    groups = state_dict.get("param_groups") or []
    numbered = [(index, group) for group in groups for index in group["params"]]
    if len(numbered) != len(params):
        raise ProblemError(
            f"the optimizer state covers {len(numbered)} parameters, the model has {len(params)}",
            hint="probe with the model the optimizer was built for, or --curvature hessian",
        )
    known = saved_family(family, {key for group in groups for key in group})
    if known == UNKNOWN:
        raise ProblemError(
            f"the optimizer state has no known diagonal metric ({family or _settings(groups)})",
            hint="use --curvature hessian",
        )
    states = state_dict.get("state", {})
    _refuse_unreadable(groups, states)
    if known == "sgd":
        return None
    if grads is None:
        grads = [None] * len(params)
    parts = [
        _diagonal(known, group, states.get(index, {}), param, grad)
        for (index, group), param, grad in zip(numbered, params, grads, strict=True)
    ]
    return _joined(parts, params, family or known)


def _whole(
    state: Mapping[str, Any], param: Tensor, grad: Tensor | None
) -> tuple[Mapping[str, Any], Tensor, Tensor | None]:
    """State, parameter and gradient, dense, with all ranks' shards put together (FSDP2)."""
    entries = {k: full(v) if isinstance(v, Tensor) else v for k, v in state.items()}
    return entries, full(param.detach()), None if grad is None else dense(full(grad))


def _settings(groups: Sequence[Mapping[str, Any]]) -> str:
    keys = sorted(set().union(*(group.keys() for group in groups)) - {"params"}) if groups else []
    return f"its settings are {', '.join(keys)}" if keys else "it has no settings"


def _refuse_unreadable(groups: Sequence[Mapping[str, Any]], states: Mapping[Any, Any]) -> None:
    """Settings that are no numbers and moments that are no tensors: objects of unrun classes."""
    entries = [(k, v) for group in groups for k, v in group.items() if k in _SETTINGS]
    moments = [state for state in states.values() if isinstance(state, Mapping)]
    entries += [(k, v) for state in moments for k, v in state.items() if k in (*_MOMENTS, "step")]
    for name, value in entries:
        if name == "betas":
            sound = isinstance(value, list | tuple) and len(value) == 2 and all(map(_number, value))
        else:
            sound = isinstance(value, Tensor) if name in _MOMENTS else _number(value)
        if not sound:
            raise ProblemError(
                f"the optimizer state's {name} cannot be read: {value!r}",
                hint="use --curvature hessian",
            )


def _number(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, int | float)
        or (isinstance(value, Tensor) and value.numel() == 1)
    )


def _diagonal(
    family: str,
    group: Mapping[str, Any] | None,
    state: Mapping[str, Any],
    param: Tensor,
    grad: Tensor | None,
) -> Tensor | None:
    """P of one parameter, flat; None where the optimizer has neither state nor gradient."""
    if group is None or (not state and grad is None):
        return None
    for name, value in state.items():
        if isinstance(value, Tensor) and value.numel() > 1 and value.shape != param.shape:
            raise ProblemError(
                f"the optimizer's {name} has shape {tuple(value.shape)}, "
                f"its parameter {tuple(param.shape)}",
                hint="probe with the model the optimizer was built for, or --curvature hessian",
            )
    g = None if grad is None else grad.detach().to(param.dtype)
    if g is not None and group.get("weight_decay", 0) and not is_decoupled(group):
        g = g.add(param.detach(), alpha=float(group["weight_decay"]))
    second = _SECOND_MOMENTS[family](group, state, torch.zeros_like(param), g)
    return (second.clamp_(min=0.0).sqrt_().add_(float(group["eps"]))).detach().reshape(-1)


def _adam(group: Mapping, state: Mapping, zero: Tensor, g: Tensor | None) -> Tensor:
    """Bias-corrected second moment; the running maximum with AMSGrad."""
    beta2 = float(group["betas"][1])
    step = float(state.get("step", 0.0))
    v = state.get("exp_avg_sq", zero).to(zero)
    if g is not None:
        step, v = step + 1.0, beta2 * v + (1.0 - beta2) * g * g
    if group.get("amsgrad", False):
        v = torch.maximum(v, state.get("max_exp_avg_sq", zero).to(zero))
    return v / (1.0 - beta2**step) if beta2 > 0.0 else v.clone()


def _rmsprop(group: Mapping, state: Mapping, zero: Tensor, g: Tensor | None) -> Tensor:
    """Second moment, about the mean gradient when centered; no bias correction."""
    alpha = float(group["alpha"])
    v = state.get("square_avg", zero).to(zero)
    mean = state.get("grad_avg", zero).to(zero)
    if g is not None:
        v = alpha * v + (1.0 - alpha) * g * g
        mean = alpha * mean + (1.0 - alpha) * g
    return v - mean * mean if group.get("centered", False) else v.clone()


def _adagrad(group: Mapping, state: Mapping, zero: Tensor, g: Tensor | None) -> Tensor:
    """Sum of squared gradients."""
    start = float(group.get("initial_accumulator_value", 0.0))
    total = state["sum"].to(zero) if "sum" in state else torch.full_like(zero, start)
    return total.clone() if g is None else total + g * g


_SECOND_MOMENTS = {"adam": _adam, "nadam": _adam, "rmsprop": _rmsprop, "adagrad": _adagrad}


def _joined(parts: list[Tensor | None], params: Sequence[Tensor], name: str) -> Tensor:
    if all(part is None for part in parts):
        raise ProblemError(
            f"{name} has taken no step and there is no gradient, so its metric is not set",
            hint="call after backward(), or measure the Hessian",
        )
    return torch.cat(
        [
            torch.full((param.numel(),), math.inf, dtype=param.dtype, device=param.device)
            if part is None
            else part
            for part, param in zip(parts, params, strict=True)
        ]
    )
