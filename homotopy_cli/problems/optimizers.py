"""What a saved optimizer state says: family, settings, and whose numbers are whose."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from homotopy_cli.problems.wrappers import clean_name


@dataclass(frozen=True)
class OptimizerInfo:
    """An optimizer state beside the model it belongs to."""

    state_dict: dict[str, Any]  # "state", "param_groups"
    family: str | None  # "adamw" where a recipe names it, else None
    settings: dict[str, Any]  # of the first group, without its parameters
    step: int | None  # steps taken, where the state counts them
    parameters: tuple[str, ...] | None  # names in the state's order; None if they do not fit


def optimizer_info(
    state: Mapping[str, Any] | None, model: nn.Module, spec: Any = None
) -> OptimizerInfo | None:
    """The state matched with the model's parameters; None without a state.

    The state numbers the parameters in the order in which the optimizer was given them: the
    trainable ones, or all, in the order of `named_parameters`. Shapes must agree.
    """
    if state is None:
        return None
    groups = state["param_groups"]
    indices = [index for group in groups for index in group.get("params", ())]
    moments = state["state"]
    every = [(clean_name(name), p) for name, p in model.named_parameters()]
    trainable = [(name, p) for name, p in every if p.requires_grad]
    names = None
    for order in (trainable, every):
        if len(order) == len(indices) and all(
            _alike(moments.get(index, {}), parameter.shape)
            for index, (_, parameter) in zip(indices, order, strict=True)
        ):
            names = tuple(name for name, _ in order)
            break
    counts = [s["step"] for s in moments.values() if isinstance(s, Mapping) and "step" in s]
    steps = [float(count) for count in counts if isinstance(count, int | float | Tensor)]
    settings = {k: v for k, v in groups[0].items() if k != "params"} if groups else {}
    name = getattr(spec, "name", None)
    return OptimizerInfo(
        dict(state),
        name if isinstance(name, str) and ":" not in name else None,
        settings,
        int(max(steps)) if steps else None,
        names,
    )


def _alike(state: Any, shape: tuple[int, ...]) -> bool:
    """Every moment with more than one number has the parameter's shape."""
    return isinstance(state, Mapping) and all(
        tuple(value.shape) == tuple(shape)
        for value in state.values()
        if isinstance(value, Tensor) and value.ndim > 0 and value.numel() > 1
    )
