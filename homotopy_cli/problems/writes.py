"""Weights that a model's own forward pass writes to: found once, and written to copies then.

nn.Embedding(max_norm=...) renormalises rows, a momentum encoder follows another, a model clamps
`weight.data`. Version counters tell only some of these, and only afterwards. So the first
measurement of a model runs one pass more, in which every operation is looked at before it
runs, and what it is about to overwrite is copied first and put back at the end. Nothing is copied
where nothing is written, and no number of a measurement comes from that pass.
"""

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from homotopy_cli.problems.wrappers import Borrowed

if TYPE_CHECKING:
    from homotopy_cli.problems.problem import Problem

Place = tuple[int, str]  # (position in model.modules(), name of a parameter or an attribute)

_QUIET = ("torch.nn.", "homotopy_cli.zoo.")  # whose forward passes write to buffers only
_FOUND: "weakref.WeakKeyDictionary[nn.Module, dict[Any, frozenset[Place]]]" = (
    weakref.WeakKeyDictionary()
)
_COPIED = WeakTensorKeyDictionary()  # a leaf with a storage of its own -> its original's version


class _Watch(TorchDispatchMode):
    """Copies each watched storage just before the first write to it."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.watched = {at: t.untyped_storage() for t in tensors if (at := address(t))}
        self.before: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for at in map(address, _written_arguments(func, args, kwargs)):
                if at in self.watched and at not in self.before:
                    self.before[at] = self.watched[at].clone()
        return func(*args, **kwargs)

    def put_back(self) -> None:
        """Give every storage that was written to what it held."""
        for at, held in self.before.items():
            self.watched[at].copy_(held)


def _written_arguments(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    found: list[Any] = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            found += value if isinstance(value, list | tuple) else [value]
    return [value for value in found if isinstance(value, Tensor)]


def address(tensor: Tensor) -> int:
    """Where a tensor's storage begins; 0 where it has none of its own."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse, fake or wrapped
        return 0


@contextmanager
def undoing(model: nn.Module) -> Iterator[None]:
    """Put back what a pass writes to parameters or to tensors among the modules' attributes."""
    watch = _Watch([t for _, t in _held(model)])
    try:
        with watch:
            yield
    finally:
        watch.put_back()


def own_written(problem: "Problem", borrowed: Borrowed, swaps: Mapping[int, Tensor]) -> Borrowed:
    """Let what a forward pass of the borrowed model writes to be copies, not the model's own.

    A trainable parameter gets a storage of its own, for the life of the problem; a frozen one and
    a plain tensor attribute a fresh clone at every evaluation, as buffers do. Costs one
    evaluation of the first batch for each model and setting of its mode flags; none where all
    modules are torch's own without max_norm, or this package's.

    Returns:
        The borrowing to go on with: that pass may have moved plain attributes.
    """
    model = problem.model
    sharded = problem.shards is not None
    if sharded or not problem.batches or not any(map(_may_write, model.modules())):
        return borrowed
    key = tuple((m.training, type(m), *m._parameters) for m in model.modules())
    known = _FOUND.setdefault(model, {})
    if key in known:
        written = known[key]
    else:
        written, whole = _written_places(model, problem)
        borrowed.release()
        borrowed = Borrowed(model, swaps, problem.mode)
        if whole:
            known[key] = written
    borrowed.written = written
    modules = list(model.modules())
    for place, name in written:
        leaf, original = modules[place]._parameters.get(name), borrowed.original(place, name)
        if leaf is None or original is None or not leaf.requires_grad:
            continue
        copied = _COPIED.get(leaf)
        if address(leaf) == address(original) or copied not in (None, original._version):
            leaf.data = original.detach().clone()
            _COPIED[leaf] = original._version
    return borrowed


def _written_places(model: nn.Module, problem: "Problem") -> tuple[frozenset[Place], bool]:
    """What one evaluation writes to, and whether it came to its end.

    Where it fails only because it is watched, as code that no dispatch mode can look through does,
    what it changes tells.
    """
    held = [(place, tensor) for place, tensor in _held(model) if address(tensor)]
    watch = _Watch([tensor for _, tensor in held])
    whole = True
    try:
        with watch:
            problem.batch_loss(0)
    except Exception:  # user code: whoever evaluates it in earnest explains this
        whole = False
    finally:
        watch.put_back()
    found = frozenset(place for place, tensor in held if address(tensor) in watch.before)
    if whole:
        return found, True
    changed, whole = _changed_places(held, problem)
    return found | changed, whole


def _changed_places(
    held: Sequence[tuple[Place, Tensor]], problem: "Problem"
) -> tuple[frozenset[Place], bool]:
    """What has other values after an evaluation, put back, and whether that came to its end."""
    before = [tensor.detach().clone() for _, tensor in held]
    found, whole = set(), True
    try:
        problem.batch_loss(0)
    except Exception:
        whole = False
    finally:
        for (place, tensor), value in zip(held, before, strict=True):
            if not torch.equal(tensor, value):
                found.add(place)
                tensor.data.copy_(value)
    return frozenset(found), whole


def _may_write(module: nn.Module) -> bool:
    if getattr(module, "max_norm", None) is not None:
        return True
    hooked = module._forward_hooks or module._forward_pre_hooks
    return bool(hooked) or not type(module).__module__.startswith(_QUIET)


def _held(model: nn.Module) -> Iterator[tuple[Place, Tensor]]:
    """Parameters as they stand in the model, and tensors among the modules' plain attributes."""
    for place, module in enumerate(model.modules()):
        for name, value in (*module._parameters.items(), *vars(module).items()):
            if isinstance(value, Tensor):
                yield (place, name), value
