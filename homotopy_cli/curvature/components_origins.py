"""Where a tensor comes from, as far as hand-written attention, norms and losses need it.

Rules, each of which must hold for the whole chain of operations; any other operation ends it:
  scores       matmul, bmm, baddbmm or einsum of two activations (three axes or more, neither a
               parameter nor attention weights), then scaling, shifting, masking, soft capping,
               casts, views, concatenation
  weights      any softmax, then the same, or dropout
  heads        a view that puts batch and heads on one axis tells how many heads there are
  squashed     log_softmax or sigmoid, then casts and views
  norms        components_scales.py
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from homotopy_cli.curvature.components_scales import SCALE_OPERATIONS, Divisor, Scale, scale_of

VIEWS = {"view", "reshape", "transpose", "swapaxes", "permute", "flatten", "unflatten"}
VIEWS |= {"contiguous", "getitem", "squeeze", "unsqueeze", "movedim", "view_as", "reshape_as"}
VIEWS |= {"expand", "narrow", "select", "get"}  # get: the properties .T and .mT
CASTS = {"to", "float", "double", "half", "bfloat16", "type", "type_as", "clone", "detach"}
_PARTS = {"unbind", "chunk", "split", "tensor_split"}
_SHIFTS = {"mul", "multiply", "div", "divide", "true_divide", "truediv", "rdiv", "add", "sub"}
_SHIFTS |= {"subtract", "rsub", "masked_fill", "where", "tril", "triu", "clamp", "clip"}
_SHIFTS |= {"minimum", "maximum", "tanh", "nan_to_num", "cat", "concat", "concatenate"}
_SHIFTS |= {"dropout"}
_PRODUCTS = {"matmul", "bmm", "baddbmm", "einsum", "rmatmul"}
_PASSING = VIEWS | CASTS | _PARTS | _SHIFTS
_IN_PLACE = {"iadd": "add", "isub": "sub", "imul": "mul", "idiv": "div", "itruediv": "div"}


@dataclass(frozen=True)
class Heads:
    """An activation with batch·heads on one axis."""

    n_heads: int
    size: int  # of that axis


@dataclass(frozen=True)
class Scores:
    """Products of two activations."""

    n_heads: int | None = None  # where batch·heads share the first axis


@dataclass(frozen=True)
class Weights:
    """A softmax; `found` is told when it weighs activations in a product."""

    found: Callable[[], None] | None = None


@dataclass(frozen=True, eq=False)
class Squashed:
    """The logits behind a log_softmax or a sigmoid, in the same layout."""

    logits: Tensor
    by: str


@dataclass(frozen=True)
class OfParameters:
    """Made of nothing but parameters: a normalised or low-rank weight."""


Origin = Heads | Scores | Weights | Squashed | OfParameters | Scale


class Origins:
    """Tensor -> Origin, forgotten with the tensor.

    Args:
        normalised: Called with the Divisor that a larger tensor was divided by.
    """

    def __init__(self, normalised: Callable[[Divisor], None]) -> None:
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

    def heads_of(self, value: Tensor) -> int | None:
        """How many heads share the first of three axes with the batch; None if unknown."""
        origin = self.of(value)
        if value.ndim != 3 or not isinstance(origin, Heads | Scores):
            return None
        if isinstance(origin, Heads) and origin.size != value.shape[0]:
            return None
        return origin.n_heads

    def follow(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        result: Any,
    ) -> None:
        """Note what one operation made of the origins of its arguments."""
        given = _flat((*args, *kwargs.values()))
        tensors = [a for a in given if isinstance(a, Tensor)]
        results = [r for r in _flat([result]) if isinstance(r, Tensor)]
        if not tensors or not results:
            return
        if all(self._of_parameters(t) for t in tensors):
            for made in results:
                self.mark(made, OfParameters())
            return
        name = getattr(function, "__name__", "").strip("_")
        name = _IN_PLACE.get(name, name)
        if name in _PRODUCTS:
            self._product(tensors[-2:], results[0])
        elif name in _PASSING:
            self._pass(name, function, args, kwargs, tensors, results)
        if name in SCALE_OPERATIONS and not any(
            isinstance(self.of(t), Scores | Weights) for t in tensors
        ):
            self._scale(name, given, results[0])

    def _of_parameters(self, value: Tensor) -> bool:
        """A weight, a view of one, or made of them; gradients are off, so leaves alone count."""
        base = value._base if value._is_view() else None
        return isinstance(self.of(value), OfParameters) or any(
            isinstance(t, nn.Parameter) or (t is not None and t.requires_grad and t.is_leaf)
            for t in (value, base)
        )

    def _product(self, operands: Sequence[Tensor], result: Tensor) -> None:
        origins = [self.of(t) for t in operands]
        activations = len(operands) == 2 and not any(self._of_parameters(t) for t in operands)
        weights = [o for o in origins if isinstance(o, Weights)]
        if activations and not weights and all(t.ndim >= 3 for t in operands):
            heads = [n for t in operands if (n := self.heads_of(t)) is not None]
            self.mark(result, Scores(heads[0] if heads else None))
        for origin in weights:
            if activations and origin.found is not None:
                origin.found()

    def _pass(
        self,
        name: str,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        tensors: Sequence[Tensor],
        results: Sequence[Tensor],
    ) -> None:
        """Give the result of a cast, view or shift the origin of the tensor it was made from."""
        known = [t for t in tensors if not isinstance(self.of(t), OfParameters | None)]
        source = next(iter(known), tensors[0])
        weights = (o for t in known if isinstance(o := self.of(t), Weights))
        origin = next(weights, self.of(source) if known else None)
        if isinstance(origin, Squashed):
            if name in CASTS | VIEWS and source is args[0]:
                again = Tensor.reshape if name == "view" else function  # other strides, perhaps
                logits = origin.logits
                logits = logits if name in CASTS else again(logits, *args[1:], **kwargs)
                self.mark(results[0], Squashed(logits, origin.by))
            return
        if isinstance(origin, Scale) and name not in CASTS | VIEWS:
            return
        for result in results:
            merged = _merged(name, source, result)
            if merged is None:
                if origin is not None:
                    self.mark(result, origin)
            elif isinstance(origin, Scores):
                self.mark(result, Scores(merged.n_heads))
            elif origin is None or isinstance(origin, Heads):
                self.mark(result, merged)
            else:
                self.mark(result, origin)

    def _scale(self, name: str, given: Sequence[Any], result: Tensor) -> None:
        origins = [self.of(value) for value in given]
        operands = [
            (value, origin if isinstance(origin, Scale) else None)
            for value, origin in zip(given, origins, strict=True)
        ]
        found = scale_of(name, operands, result)
        if isinstance(found, Divisor) and any(origin is found for origin in origins):
            for value, origin in operands:
                if origin is found:
                    del self._known[value]  # once, also where the scale is used again
            self._normalised(found)
        elif found is not None and not self._of_parameters(given[0]):
            self.mark(result, found)


def _merged(name: str, source: Tensor, result: Tensor) -> Heads | None:
    """The heads that a reshape has put on one axis with the batch."""
    if name not in ("view", "reshape", "flatten") or result.ndim < 3:
        return None
    if result.ndim < source.ndim and result.shape[-2:] == source.shape[-2:]:
        heads, size = source.shape[-3], result.shape[-3]
        return Heads(heads, size) if heads > 1 and size % heads == 0 else None
    if result.ndim == source.ndim == 3 and result.shape[0] == source.shape[0]:
        heads = result.shape[1] // max(1, source.shape[1])  # (length, batch, heads·size)
        fits = heads > 1 and source.shape[2] == heads * result.shape[2]
        return Heads(heads, result.shape[1]) if fits else None
    return None


def _flat(values: Iterable[Any]) -> list[Any]:
    """Arguments, with one level of lists and tuples opened: cat, einsum, chunk."""
    found: list[Any] = []
    for value in values:
        found.extend(value if isinstance(value, list | tuple) else [value])
    return found
