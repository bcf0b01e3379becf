"""Norms written by hand: from mean(y²), var(y) or std(y) to the division by its root.

Rules; any other operation ends the chain:
  centred      y minus a mean of something
  variance     mean(y²), var, the first of var_mean; + eps, casts, views
  root         sqrt of a variance, std, the first of std_mean; + eps, casts, views
  inverse      rsqrt of a variance, reciprocal of a root; casts, views
  normalised   a larger tensor divided by a root, or multiplied by an inverse
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

_MULTIPLY = {"mul", "multiply"}
_DIVIDE = {"div", "divide", "true_divide", "truediv"}
_SPREADS = {"var", "var_mean", "std", "std_mean"}
_ROOTS = {"sqrt", "rsqrt", "reciprocal", "rdiv", "pow"}
SCALE_OPERATIONS = {"square", "mean", "add", "sub", "subtract"}
SCALE_OPERATIONS |= _MULTIPLY | _DIVIDE | _SPREADS | _ROOTS


@dataclass(frozen=True)
class Mean:
    """A mean over some axes."""


@dataclass(frozen=True)
class Centred:
    """Something minus a mean."""


@dataclass(frozen=True)
class Square:
    """y²."""

    of_centred: bool


@dataclass(frozen=True, eq=False)
class Divisor:
    """`values`: variances before eps, kept apart from the tensor, which may change in place."""

    values: Tensor  # flat
    kind: str
    form: Literal["variance", "root", "inverse"]
    eps: float = 0.0  # under the root
    added: float = 0.0  # to the root


Scale = Mean | Centred | Square | Divisor


def scale_of(
    name: str, operands: Sequence[tuple[Any, Scale | None]], result: Tensor
) -> Scale | None:
    """What an operation of SCALE_OPERATIONS made of (argument, origin) pairs; None: nothing.

    A Divisor that is the origin of an operand itself means: `result` is normalised by it.
    """
    first, origin = operands[0]
    second, other = operands[1] if len(operands) > 1 else (None, None)
    if isinstance(origin, Divisor):
        return _of_divisor(name, origin, _number(second), first, result)
    if isinstance(other, Divisor):
        by = (name in _MULTIPLY and other.form == "inverse") or (
            name in _DIVIDE and other.form == "root"
        )
        return other if by and result.numel() > second.numel() else None
    if name == "square" or (name == "pow" and _number(second) == 2):
        return Square(isinstance(origin, Centred))
    if name in _MULTIPLY and first is second:
        return Square(isinstance(origin, Centred))
    if name in ("sub", "subtract") and isinstance(other, Mean):
        return Centred()
    if not isinstance(first, Tensor) or result.numel() >= first.numel():
        return None
    if name == "mean" and isinstance(origin, Square):
        kind = "LayerNorm" if origin.of_centred else "RMSNorm"
        return Divisor(_kept(result), kind, "variance")
    if name in _SPREADS:
        if name.startswith("std"):
            return Divisor(_kept(result).square(), "LayerNorm", "root")
        return Divisor(_kept(result), "LayerNorm", "variance")
    return Mean() if name == "mean" else None


def _of_divisor(
    name: str, origin: Divisor, number: float | None, source: Tensor, result: Tensor
) -> Divisor | None:
    form = origin.form
    if name == "add" and number is not None and form == "variance":
        return replace(origin, eps=origin.eps + number)
    if name == "add" and number is not None and form == "root":
        return replace(origin, added=origin.added + number)
    if form == "variance" and (name == "sqrt" or (name == "pow" and number == 0.5)):
        return replace(origin, form="root")
    if form == "variance" and (name == "rsqrt" or (name == "pow" and number == -0.5)):
        return replace(origin, form="inverse")
    if form == "root" and (name in ("reciprocal", "rdiv") or (name == "pow" and number == -1)):
        return replace(origin, form="inverse")
    normalises = name in _MULTIPLY and form == "inverse" and result.numel() > source.numel()
    return origin if normalises else None


def _kept(values: Tensor) -> Tensor:
    return values.detach().clone().reshape(-1)


def _number(value: Any) -> float | None:
    """A Python number, or a tensor that holds one."""
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value) if isinstance(value, int | float) else None
