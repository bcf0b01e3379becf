"""Weighted means over ranks: what each rank computes on its own batches becomes one number.

A rank's part is already weighted by its share of all loss terms, so that adding the parts is
the mean over all terms of all ranks, however unevenly they are spread. Every rank gets the
same bits, and every rank gets the same error: a rank that fails still takes part in the
collective, with NaN, and all ranks then raise what it says. Nobody waits for a rank that is gone.
"""

import builtins
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from homotopy_cli import errors
from homotopy_cli.errors import HomotopyError

T = TypeVar("T")


class Reducer(Protocol):
    """How the parts of several ranks become one; every method is called by all ranks alike."""

    rank: int
    size: int

    def sum(self, compute: Callable[[], Tensor], like: Tensor) -> Tensor:
        """Return the sum over ranks of what `compute` returns, the same bits on each rank.

        One all-reduce. The result may overwrite what `compute` returned.

        Args:
            compute: This rank's part, without collectives of its own.
            like: A tensor of the same shape, dtype and device.

        Raises:
            Exception: `compute` failed on some rank: then on every rank, naming it.
        """
        ...

    def together(self, compute: Callable[[], T]) -> list[T]:
        """Return what `compute` returned on each rank, in their order; small, picklable.

        Raises:
            Exception: As `sum`.
        """
        ...

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        ...

    def first(self, tensor: Tensor) -> Tensor:
        """Return rank 0's tensor; all ranks give one of the same shape, dtype and device."""
        ...


class LocalReducer:
    """One rank: nothing is exchanged, and errors pass untouched."""

    rank, size = 0, 1

    def sum(self, compute: Callable[[], Tensor], like: Tensor) -> Tensor:
        """Return compute()."""
        return compute()

    def together(self, compute: Callable[[], T]) -> list[T]:
        """Return [compute()]."""
        return [compute()]

    def any(self, flag: bool) -> bool:
        """Return the flag."""
        return flag

    def first(self, tensor: Tensor) -> Tensor:
        """Return the tensor."""
        return tensor


LOCAL = LocalReducer()


class ProcessGroupReducer:
    """The ranks of a torch.distributed process group.

    Args:
        group: None is the default group, which must be initialised.
    """

    def __init__(self, group: "dist.ProcessGroup | None" = None) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        nccl = "nccl" in str(dist.get_backend(group))
        self._device = torch.device("cuda", torch.cuda.current_device()) if nccl else None

    def sum(self, compute: Callable[[], Tensor], like: Tensor) -> Tensor:
        """Return the sum over ranks: see `Reducer.sum`.

        A failing rank sends NaN. Only where the sum starts with NaN do the ranks ask one another
        why, so that success costs one all-reduce and no more.
        """
        failure: Exception | None = None
        try:
            part = compute().detach().contiguous()
        except Exception as error:
            part, failure = torch.full_like(like, torch.nan).contiguous(), error
        total = self._over_wire(part, lambda wire: dist.all_reduce(wire, group=self.group))
        if bool(torch.isnan(total.view(-1)[0])):
            self._settle(failure)
        return total

    def together(self, compute: Callable[[], T]) -> list[T]:
        """Return what each rank has: see `Reducer.together`."""
        mine: T | None = None
        failure: Exception | None = None
        try:
            mine = compute()
        except Exception as error:
            failure = error
        return self._settle(failure, mine)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank; one all-reduce of one number."""
        wire = torch.tensor([float(flag)], device=self._device)
        dist.all_reduce(wire, op=dist.ReduceOp.MAX, group=self.group)
        return bool(wire.item())

    def first(self, tensor: Tensor) -> Tensor:
        """Return rank 0's tensor; one broadcast."""
        return self._over_wire(
            tensor.detach().clone(memory_format=torch.contiguous_format),
            lambda wire: dist.broadcast(wire, group=self.group, group_src=0),
        )

    def _over_wire(self, tensor: Tensor, exchange: Callable[[Tensor], Any]) -> Tensor:
        """Exchange in place, by way of the device that the group's backend can send from."""
        wire = tensor if self._device is None else tensor.to(self._device)
        exchange(wire)
        return wire.to(tensor.device)

    def _settle(self, failure: Exception | None, mine: Any = None) -> list[Any]:
        """Tell all ranks how this one fared; the same error on each where any failed."""
        report = (mine, None if failure is None else _described(failure))
        reports: list[Any] = [None] * self.size
        dist.all_gather_object(reports, report, group=self.group)
        failures = {rank: told for rank, (_, told) in enumerate(reports) if told is not None}
        if failures:
            raise _joint_error(failures, self.size) from failure
        return [result for result, _ in reports]


def each(reducer: Reducer, compute: Callable[[], T]) -> T:
    """Return what `compute` returns here, of any kind; where it fails on one rank, all raise."""
    kept: list[T] = []
    reducer.together(lambda: kept.append(compute()))
    return kept[0]


_Told = tuple[str, str, str]  # class name, message, hint


def _described(error: Exception) -> _Told:
    """An error as plain strings: its own class may not survive the way to another process."""
    name = type(error).__name__
    if isinstance(error, HomotopyError):
        return name, error.message, error.hint
    if _class_of(name) is None:
        return "RuntimeError", f"{name}: {error}", ""
    return name, str(error), ""


def _joint_error(failures: dict[int, _Told], size: int) -> Exception:
    """The lowest failing rank's error, which says where it happened unless it did everywhere."""
    first = min(failures)
    name, message, hint = failures[first]
    if len(failures) < size or len(set(failures.values())) > 1:
        message = f"rank {first}: {message}"
    kind = _class_of(name) or RuntimeError
    return kind(message, hint=hint) if issubclass(kind, HomotopyError) else kind(message)


def _class_of(name: str) -> type[Exception] | None:
    """One of our errors, of Python's that take one message, or torch's out-of-memory error."""
    if name == "OutOfMemoryError":
        return torch.OutOfMemoryError
    kind = getattr(errors, name, None)
    if kind is None and name in _PLAIN:
        kind = getattr(builtins, name)
    takes_one = isinstance(kind, type) and issubclass(kind, Exception)
    return kind if takes_one and kind is not errors.TrainingDiverged else None


_PLAIN = (
    "ArithmeticError",
    "AttributeError",
    "IndexError",
    "KeyError",
    "MemoryError",
    "NotImplementedError",
    "RuntimeError",
    "TypeError",
    "ValueError",
)
