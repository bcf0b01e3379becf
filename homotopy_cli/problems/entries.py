"""Which sets of weights a file holds, and what else: optimizer, scheduler, the rest."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from homotopy_cli.problems.legible import plain

# In the order of preference; the rest follow by size. Averages are offered, never taken unasked.
PREFERRED = (
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model_weights",
    "module",
    "net",
    "network",
    "net_state_dict",
    "weights",
    "params",
    "generator",
)
_AVERAGES = ("ema", "swa", "avg", "average", "teacher", "shadow", "target", "momentum")
_OPTIMIZERS = (
    "optimizer",
    "optimizer_state_dict",
    "optimizer_states",
    "optimizer_state",
    "optim",
    "opt",
    "optimizers",
)
_SCHEDULERS = (
    "scheduler",
    "scheduler_state_dict",
    "lr_scheduler",
    "lr_schedulers",
    "lr_scheduler_state_dict",
)
_NOT_WEIGHTS = ("rng", "rng_state", "random", "loops", "callbacks", "buffer_names", "cuda_rng")
_DEPTH = 5


@dataclass
class Parts:
    """The content of a file, sorted."""

    kind: str
    sets: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # preferred first; "" = top
    optimizer: dict[str, Any] | None = None
    scheduler: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # small values beside the weights
    module: Any = None  # a whole nn.Module, by --trust-pickle
    notes: tuple[str, ...] = ()


def find_sets(content: Mapping[Any, Any]) -> dict[str, dict[str, Tensor]]:
    """Every set of weights by its dotted place, the one to take first."""
    found: dict[str, dict[str, Tensor]] = {}
    if is_set(content):
        return {"": tensors_of(content)}
    known = any(str(k).lower() in PREFERRED or _is_average(str(k)) for k in content)
    whole = {} if known else _flattened(content)
    if whole:
        found[""] = whole
    _search(content, "", found, 0)
    return dict(sorted(found.items(), key=lambda item: _rank(*item)))


def is_set(value: Any) -> bool:
    """A mapping whose string keys name tensors, at least one of them floating."""
    if not isinstance(value, Mapping) or not value:
        return False
    if not all(isinstance(key, str) for key in value):
        return False
    tensors = [v for v in value.values() if isinstance(v, Tensor)]
    others = [k for k, v in value.items() if not isinstance(v, Tensor)]
    if any(not (k.endswith("_extra_state") or k == "_metadata") for k in others):
        return False
    return any(t.is_floating_point() or t.is_complex() for t in tensors)


def tensors_of(value: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a set, in order."""
    return {key: item for key, item in value.items() if isinstance(item, Tensor)}


def optimizer_of(content: Mapping[Any, Any]) -> tuple[dict[str, Any] | None, str]:
    """(The first optimizer's state, a note where there are several)."""
    for name in _OPTIMIZERS:
        value = content.get(name)
        several = ""
        if isinstance(value, list | tuple) and value:
            several = f"{name} holds {len(value)}, the first was taken" if len(value) > 1 else ""
            value = value[0]
        if not isinstance(value, Mapping) or not isinstance(value.get("state"), Mapping):
            continue
        groups = plain(value.get("param_groups"))
        if isinstance(groups, list) and all(isinstance(group, Mapping) for group in groups):
            return {**value, "param_groups": groups}, several
    return None, ""


def scheduler_of(content: Mapping[Any, Any]) -> dict[str, Any] | None:
    """The first scheduler's state."""
    for name in _SCHEDULERS:
        value = content.get(name)
        if isinstance(value, list | tuple) and value:
            value = value[0]
        if isinstance(value, Mapping) and value:
            return dict(value)
    return None


def small_values(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Numbers, texts and hyper-parameters that lie beside the weights."""
    kept = {}
    for key, held in content.items():
        value = plain(held)
        if isinstance(value, str | int | float | bool) or (
            isinstance(value, Mapping)
            and str(key) in ("hyper_parameters", "hparams", "config", "args", "model_args")
        ):
            kept[str(key)] = value
    return kept


def _search(value: Mapping[Any, Any], place: str, found: dict[str, Any], depth: int) -> None:
    """Depth-limited, so that a container which holds itself ends too."""
    for key, item in value.items():
        name = str(key)
        if not isinstance(item, Mapping) or depth >= _DEPTH or name.lower() in _NOT_WEIGHTS:
            continue
        if name in _OPTIMIZERS or name in _SCHEDULERS or "param_groups" in item:
            continue
        path = f"{place}.{name}" if place else name
        if is_set(item):
            found[path] = tensors_of(item)
        else:
            _search(item, path, found, depth + 1)


def _flattened(content: Any, prefix: str = "", depth: int = 0) -> dict[str, Tensor]:
    """Dotted names of a nest that holds nothing but tensors; {} for any other."""
    flat: dict[str, Tensor] = {}
    for key, value in content.items():
        if isinstance(value, Tensor):
            flat[f"{prefix}{key}"] = value
        elif isinstance(value, Mapping) and value and depth < _DEPTH:
            inner = _flattened(value, f"{prefix}{key}.", depth + 1)
            if not inner:
                return {}
            flat.update(inner)
        else:
            return {}
    return flat if any(t.dtype.is_floating_point for t in flat.values()) else {}


def _is_average(name: str) -> bool:
    words = name.lower().replace(".", "_").replace("-", "_").split("_")
    return any(word in _AVERAGES for word in words)


def _rank(name: str, state: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """Sort key: the top itself, preferred names, others by size; averages after all."""
    first = name.split(".")[0].lower()
    known = PREFERRED.index(first) if first in PREFERRED else len(PREFERRED)
    size = sum(t.numel() for t in state.values() if t.dtype != torch.uint8)
    return (name != "", _is_average(name), known, -size, name)
