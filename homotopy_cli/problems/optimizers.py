"""What a saved optimizer state says: family, settings, and whose numbers are whose."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from homotopy_cli.problems.naming import SEGMENTS
from homotopy_cli.problems.partition import ROOT
from homotopy_cli.problems.wrappers import clean_name

_MISFIT = "its optimizer state does not fit the model: no preconditioned curvature"


@dataclass(frozen=True)
class OptimizerInfo:
    """An optimizer state beside the model it belongs to."""

    state_dict: dict[str, Any]  # "state", "param_groups"
    family: str | None  # "adamw" where a recipe names it, else None
    settings: dict[str, Any]  # of the first group, without its parameters
    step: int | None  # steps taken, where the state counts them
    parameters: tuple[str, ...] | None  # names in the state's order; None if they cannot be told
    unmatched: str = ""  # why not, in words
    by_shape: bool = False  # matched by shapes over several groups, without names

    @property
    def unclear(self) -> bool:
        """Several matches fit, and none is known to be right."""
        return self.unmatched not in ("", _MISFIT)


def optimizer_info(
    state: Mapping[str, Any] | None, model: nn.Module, spec: Any = None
) -> OptimizerInfo | None:
    """The state matched with the model's parameters; None without a state.

    By the names in its groups (torch's `param_names`, and the `layer` that per-layer rates add)
    where they are there. Else by number, for the state of one group counts its parameters in the
    order in which they were given: the trainable ones, or all, in the order of
    `named_parameters`. Of several groups without names each holds its parameters in that order,
    and shapes must leave one way only to share them out.
    """
    if state is None:
        return None
    groups = state["param_groups"]
    moments = state["state"]
    every = [(clean_name(name), p) for name, p in model.named_parameters()]
    names, why_not = _by_name(groups, moments, every, model), ""
    by_shape = False
    if names is None:
        names, why_not = _by_order(groups, moments, every)
        by_shape = names is not None and len(groups) > 1 and not _layers(groups)
    counts = [s["step"] for s in moments.values() if isinstance(s, Mapping) and "step" in s]
    steps = [float(count) for count in counts if isinstance(count, int | float | Tensor)]
    left_out = ("params", "param_names")
    settings = {k: v for k, v in groups[0].items() if k not in left_out} if groups else {}
    name = getattr(spec, "name", None)
    return OptimizerInfo(
        dict(state),
        name if isinstance(name, str) and ":" not in name else None,
        settings,
        int(max(steps)) if steps else None,
        names,
        why_not,
        by_shape,
    )


Named = Sequence[tuple[str, nn.Parameter]]


def _by_name(
    groups: Sequence[Mapping[str, Any]], moments: Mapping, every: Named, model: nn.Module
) -> tuple[str, ...] | None:
    """The model's names for the state's own; None where it has none, or others."""
    saved = [name for group in groups for name in _texts(group)]
    indices = [index for group in groups for index in group.get("params", ())]
    if not saved or len(saved) != len(indices):
        return None
    first = {id(p): name for name, p in every}
    known = {clean_name(n): p for n, p in model.named_parameters(remove_duplicate=False)}
    wanted = {name for name, p in every if p.requires_grad}
    for names in _readings(saved):
        found = [first[id(known[name])] if name in known else name for name in names]
        fits = all(
            _alike(moments.get(index, {}), known[name].shape)
            for index, name in zip(indices, names, strict=True)
            if name in known
        )
        if fits and (all(name in known for name in names) or wanted <= set(found)):
            return tuple(found)
    return None


def _readings(saved: Sequence[str]) -> Iterator[list[str]]:
    """The names without what DDP, compile and FSDP add, then without segments common to all."""
    names = [".".join(part for part in n.split(".") if part not in SEGMENTS) for n in saved]
    yield names
    while len({name.partition(".")[0] for name in names}) == 1 and all("." in n for n in names):
        names = [name.partition(".")[2] for name in names]
        yield names


def _texts(group: Mapping[str, Any]) -> list[str]:
    """The names of a group's parameters: beside their numbers, or in place of them."""
    names = group.get("param_names") or group.get("params", ())
    return [n for n in names if isinstance(n, str)] if isinstance(names, list | tuple) else []


def _layers(groups: Sequence[Mapping[str, Any]]) -> bool:
    """Each group says which module owns its parameters."""
    return all(isinstance(group.get("layer"), str) for group in groups)


def _by_order(
    groups: Sequence[Mapping[str, Any]], moments: Mapping, every: Named
) -> tuple[tuple[str, ...] | None, str]:
    """(Names in the state's order or None, why not)."""
    indices = [index for group in groups for index in group.get("params", ())]
    why_not = _MISFIT
    for order in ([pair for pair in every if pair[1].requires_grad], every):
        if len(order) != len(indices):
            continue
        if len(groups) > 1:
            names, why_not = _shared_out(groups, moments, order)
        elif all(
            _alike(moments.get(index, {}), parameter.shape)
            for index, (_, parameter) in zip(indices, order, strict=True)
        ):
            names = tuple(name for name, _ in order)
        else:
            names = None
        if names is not None:
            return names, ""
    return None, why_not


def _shared_out(
    groups: Sequence[Mapping[str, Any]], moments: Mapping, order: Named
) -> tuple[tuple[str, ...] | None, str]:
    """Parameters of one shape (and layer) all belong to one group, in the model's order."""
    by_layer = _layers(groups)
    free: dict[Any, list[str]] = {}
    for name, parameter in order:
        layer = (name.rpartition(".")[0] or ROOT) if by_layer else None
        free.setdefault((layer, tuple(parameter.shape)), []).append(name)
    holders: dict[Any, list[int]] = {}
    slots = []
    for number, group in enumerate(groups):
        for index in group.get("params", ()):
            shape = _shape(moments.get(index, {}))
            if shape is None:
                return None, _unclear(groups, "parameters without moments")
            key = (group["layer"] if by_layer else None, shape)
            holders.setdefault(key, []).append(number)
            slots.append(key)
    if {key: len(names) for key, names in free.items()} != {k: len(v) for k, v in holders.items()}:
        return None, _MISFIT
    for key, numbers in holders.items():
        if len(set(numbers)) > 1:
            return None, _unclear(groups, f"parameters of shape {list(key[1])}")
    left = {key: iter(names) for key, names in free.items()}
    return tuple(next(left[key]) for key in slots), ""


def _unclear(groups: Sequence[Mapping[str, Any]], what: str) -> str:
    return (
        f"its optimizer state has {len(groups)} parameter groups without names, and which group "
        f"holds which of the {what} cannot be told: no preconditioned curvature; "
        'add "param_names" to each of its param_groups, as torch does for an optimizer of '
        "model.named_parameters()"
    )


def _shape(state: Any) -> tuple[int, ...] | None:
    """The shape of a parameter by its moments; None without any."""
    if not isinstance(state, Mapping):
        return None
    shapes = [tuple(v.shape) for k, v in state.items() if isinstance(v, Tensor) and k != "step"]
    return max(shapes, key=lambda shape: (len(shape), shape), default=None)


def _alike(state: Any, shape: tuple[int, ...]) -> bool:
    """Every moment with more than one number has the parameter's shape."""
    return isinstance(state, Mapping) and all(
        tuple(value.shape) == tuple(shape)
        for value in state.values()
        if isinstance(value, Tensor) and value.ndim > 0 and value.numel() > 1
    )
