"""Where a tensor comes from, as far as hand-written attention, norms and losses need it.

Rules, each of which must hold for the whole chain of operations; any other operation ends it:
  scores       matmul, bmm, baddbmm or einsum of two activations (three axes or more, neither a
               parameter nor attention weights), then scaling, shifting, masking, soft capping,
               casts, views, concatenation
  weights      softmax of scores, then the same, or dropout
  mean square  mean(y², keepdim=True) or var(y, keepdim=True), + eps, casts
  scale        sqrt or rsqrt of a mean square, reciprocal, casts; multiplied into (or dividing)
               a larger tensor it is a normalisation
  log p        log_softmax, then views
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

_VIEWS = {"view", "reshape", "transpose", "swapaxes", "permute", "flatten", "unflatten"}
_VIEWS |= {"contiguous", "getitem", "squeeze", "unsqueeze", "movedim", "view_as", "reshape_as"}
_VIEWS |= {"expand", "narrow", "select", "get"}  # get: the properties .T and .mT
_CASTS = {"to", "float", "double", "half", "bfloat16", "type", "type_as", "clone", "detach"}
_SHIFTS = {"mul", "multiply", "div", "divide", "true_divide", "truediv", "rdiv", "add", "sub"}
_SHIFTS |= {"subtract", "rsub", "masked_fill", "where", "tril", "triu", "clamp", "clip"}
_SHIFTS |= {"minimum", "maximum", "tanh", "nan_to_num", "cat", "concat", "concatenate"}
_SCALINGS = {"mul", "multiply", "div", "divide", "true_divide", "truediv"}
_PRODUCTS = {"matmul", "bmm", "baddbmm", "einsum", "rmatmul"}
_NORMS = {"pow", "square", "mean", "var", "sqrt", "rsqrt", "reciprocal"}
_FOLLOWED = _VIEWS | _CASTS | _SHIFTS | _PRODUCTS | _NORMS | {"dropout"}


@dataclass(frozen=True)
class Scores:
    """Products of two activations."""


@dataclass(frozen=True)
class Weights:
    """Softmax of scores."""


@dataclass(frozen=True)
class Square:
    """y²."""


@dataclass(frozen=True)
class MeanSquare:
    """`values`: variances before eps, kept apart from the tensor, which may change in place."""

    values: Tensor
    kind: str
    eps: float = 0.0
    rooted: bool = False


@dataclass(frozen=True)
class LogProbabilities:
    """The logits behind a log_softmax, in the same layout."""

    logits: Tensor


Origin = Scores | Weights | Square | MeanSquare | LogProbabilities


class Origins:
    """Tensor -> Origin, forgotten with the tensor.

    Args:
        normalised: Called with the MeanSquare that a tensor was divided by.
    """

    def __init__(self, normalised: Callable[[MeanSquare], None]) -> None:
        self._known: Any = WeakIdKeyDictionary()
        self._normalised = normalised

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()

    def of(self, value: Any) -> Origin | None:
        """Where `value` comes from, if it is a tensor of known origin."""
        return self._known.get(value) if isinstance(value, Tensor) else None

    def mark(self, value: Tensor, origin: Origin) -> None:
        """`value` is known to come from there."""
        self._known[value] = origin

    def follow(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        result: Any,
    ) -> None:
        """Note what one operation made of the origins of its arguments."""
        name = getattr(function, "__name__", "").strip("_")
        if name not in _FOLLOWED or not isinstance(result, Tensor):
            return
        if name in _PRODUCTS:
            if self._is_scores(name, args):
                self.mark(result, Scores())
            return
        if name in ("pow", "square", "mul", "multiply") and _is_square(
            name, [*args, *kwargs.values()]
        ):
            if not is_parameter(args[0]):
                self.mark(result, Square())
            return
        inputs = [a for a in _flat((*args, *kwargs.values())) if self.of(a) is not None]
        if name == "var":
            self._reduce("LayerNorm", args, kwargs, result)
        elif inputs:
            self._follow_known(name, function, args, kwargs, result, inputs)

    def _follow_known(
        self,
        name: str,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        result: Tensor,
        inputs: Sequence[Tensor],
    ) -> None:
        source = inputs[0]
        origin = self.of(source)
        if isinstance(origin, Scores | Weights):
            if name not in _PRODUCTS | _NORMS:
                weights = any(isinstance(self.of(t), Weights) for t in inputs)
                self.mark(result, Weights() if weights else Scores())
        elif isinstance(origin, Square):
            if name == "mean":
                self._reduce("RMSNorm", args, kwargs, result)
        elif isinstance(origin, MeanSquare):
            self._follow_mean_square(name, origin, source, args, result)
        elif isinstance(origin, LogProbabilities):
            if name in _CASTS:
                self.mark(result, origin)
            elif name in _VIEWS and args and args[0] is source:
                self.mark(result, LogProbabilities(function(origin.logits, *args[1:], **kwargs)))

    def _is_scores(self, name: str, args: Sequence[Any]) -> bool:
        operands = [a for a in _flat(args) if isinstance(a, Tensor)]
        operands = operands[1:] if name == "baddbmm" else operands
        return len(operands) == 2 and all(
            t.ndim >= 3 and not is_parameter(t) and not isinstance(self.of(t), Weights)
            for t in operands
        )

    def _reduce(
        self, kind: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor
    ) -> None:
        source = args[0] if args else None
        kept = isinstance(source, Tensor) and result.ndim == source.ndim
        if kept and result.numel() < source.numel() and not is_parameter(source):
            self.mark(result, MeanSquare(result.detach().clone().reshape(-1), kind))

    def _follow_mean_square(
        self, name: str, origin: MeanSquare, source: Tensor, args: Sequence[Any], result: Tensor
    ) -> None:
        others = [a for a in args if a is not source]
        number = _number(others[0]) if len(others) == 1 else None
        if name in _CASTS:
            self.mark(result, origin)
        elif not origin.rooted and name == "add" and number is not None:
            self.mark(result, replace(origin, eps=origin.eps + number))
        elif not origin.rooted and (
            name in ("sqrt", "rsqrt") or (name == "pow" and number in (0.5, -0.5))
        ):
            self.mark(result, replace(origin, rooted=True))
        elif origin.rooted and (name == "reciprocal" or (name == "rdiv" and number is not None)):
            self.mark(result, origin)
        elif origin.rooted and name in _SCALINGS and result.numel() > source.numel():
            del self._known[source]  # once, also where the scale is used again
            self._normalised(origin)


def is_parameter(value: Any) -> bool:
    """A weight or a view of one; while gradients are off nothing else requires them."""
    if not isinstance(value, Tensor):
        return False
    base = value._base if value._is_view() else None
    return any(
        isinstance(t, nn.Parameter) or (t is not None and t.requires_grad) for t in (value, base)
    )


def _is_square(name: str, args: Sequence[Any]) -> bool:
    if name == "square":
        return True
    if len(args) < 2:
        return False
    return args[0] is args[1] if name.startswith("mul") else _number(args[1]) == 2


def _number(value: Any) -> float | None:
    """A Python number, or a tensor that holds one."""
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value) if isinstance(value, int | float) else None


def _flat(values: Any) -> list[Any]:
    """Arguments, with one level of lists and tuples opened: cat, einsum."""
    found: list[Any] = []
    for value in values:
        found.extend(value if isinstance(value, list | tuple) else [value])
    return found
