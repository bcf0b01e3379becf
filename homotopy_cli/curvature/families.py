"""The optimizers whose metric and edge of stability formulas give, and how each is recognised."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

UNKNOWN = "unknown"
_BY_CLASS = {
    torch.optim.SGD: "sgd",
    torch.optim.NAdam: "nadam",
    torch.optim.Adam: "adam",
    torch.optim.AdamW: "adam",
    torch.optim.RMSprop: "rmsprop",
    torch.optim.Adagrad: "adagrad",
}
_BY_NAME = {cls.__name__.lower(): family for cls, family in _BY_CLASS.items()}
PRECONDITIONED = frozenset(_BY_CLASS.values()) - {"sgd"}


def optimizer_family(optimizer: Optimizer) -> str:
    """The family of a live optimizer, by its class; "unknown" for all others.

    A subclass follows its parent; one that overrides `step` with a law of its own cannot be
    told from one that does not.
    """
    found = (_BY_CLASS[cls] for cls in type(optimizer).__mro__ if cls in _BY_CLASS)
    return next(found, UNKNOWN)


def saved_family(name: str | None, settings: Collection[str]) -> str:
    """The family of a saved optimizer, by its recipe name; else by its settings' names."""
    if name is not None:
        return _BY_NAME.get(name.lower(), UNKNOWN)
    keys = set(settings)
    if {"betas", "eps"} <= keys:
        return "nadam" if "momentum_decay" in keys else "adam"
    if {"alpha", "centered", "eps"} <= keys:
        return "rmsprop"
    if {"lr_decay", "eps"} <= keys:
        return "adagrad"
    return "sgd" if {"momentum", "dampening"} <= keys else UNKNOWN


def is_decoupled(group: Mapping[str, Any]) -> bool:
    """AdamW, and Adam or NAdam asked for decoupled decay; torch marks all of them so."""
    return bool(group.get("decoupled_weight_decay", False))
