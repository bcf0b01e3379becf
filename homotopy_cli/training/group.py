"""The ranks of a torchrun: see ranks.Solo for what they are asked.

Every rank draws the same batch and keeps its rows, rank 0 alone writes, and what decides (a
signal, the clock, a loss) is the same on all ranks before anybody acts on it.
"""

import math
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from homotopy_cli.errors import HomotopyError, ProblemError, first_line
from homotopy_cli.problems.nest import Batch, map_tensors, n_rows
from homotopy_cli.problems.reducer import ProcessGroupReducer
from homotopy_cli.training.forward import Forward
from homotopy_cli.training.ranks import SaidElsewhere, Solo
from homotopy_cli.training.signals import StopRequest

T = TypeVar("T")
_OF_SHARDS = ("DTensor", "placement", "DeviceMesh", "Sharding")  # what torch says of them
_SAME = 1e-9  # relative variance of ‖g‖ over ranks; what DDP has averaged has none but rounding


class Group(Solo):
    """The ranks of the default process group. Every method is called by all of them alike.

    Args:
        parallel: "ddp" or "fsdp".

    Attributes:
        sharded: Parameters are DTensors, of which this rank has its shard.
        reducer: Of the default group.
    """

    def __init__(self, parallel: str) -> None:
        self.parallel, self.sharded = parallel, parallel == "fsdp"
        self.reducer = ProcessGroupReducer()
        self.rank, self.size = self.reducer.rank, self.reducer.size
        self.is_main = self.rank == 0
        here = os.environ.get("LOCAL_WORLD_SIZE", str(self.size))
        self.program = f"torchrun --nproc-per-node {here} -m homotopy_cli"
        nccl = dist.get_backend() == "nccl"
        self._device = torch.device("cuda", torch.cuda.current_device()) if nccl else "cpu"

    def facts(self) -> dict[str, str]:
        """Ranks, kind and backend."""
        return {
            "ranks": str(self.size),
            "parallel": self.parallel,
            "backend": str(dist.get_backend()),
        }

    def on_main(self, function: Callable[[], T]) -> T:
        """See `Solo.on_main`; what is returned must be picklable, and small."""
        told: list[Any] = [None, None]
        failure: Exception | None = None
        if self.is_main:
            try:
                told = [function(), None]
            except Exception as error:
                failure, told = error, [None, _code(error)]
        dist.broadcast_object_list(told, src=0, device=torch.device(self._device))
        if failure is not None:
            raise failure
        if told[1] is not None:
            raise SaidElsewhere(told[1])
        return told[0]

    def together(self, function: Callable[[], T]) -> T:
        """See `Solo.together`: the lowest rank that failed raises its error, and names itself."""
        found: list[T] = []
        failure: Exception | None = None
        try:
            found.append(function())
        except Exception as error:
            failure = error
        codes = self.gather(None if failure is None else _code(failure))
        failed = [rank for rank, code in enumerate(codes) if code is not None]
        if not failed:
            return found[0]
        if failure is not None and self.rank == failed[0]:
            raise failure if len(failed) == self.size else _named(failure, self.rank)
        raise SaidElsewhere(codes[failed[0]])

    def backward(self, forward: Forward, batch: Batch, *, accumulate: int, weight: float) -> Tensor:
        """See `Solo.backward`. Every rank runs as many parts; DDP averages after the last."""
        forward.fresh()
        parts = _pieces(batch, accumulate)
        counts = [forward.loss.count(part) for part in parts]
        terms, total = sum(counts), None
        for i, (part, count) in enumerate(zip(parts, counts, strict=True)):
            waits = i + 1 < len(parts) and not self.sharded
            with forward.engine.no_sync() if waits else nullcontext():
                loss = self._settled(forward, part)
                # without a term the mean is 0/0
                loss = loss * (count / terms) if count else torch.nan_to_num(loss) * 0.0
                (loss * weight).backward()
            total = loss.detach() if total is None else total + loss.detach()
        return total

    def _settled(self, forward: Forward, part: Batch) -> Tensor:
        """A loss whose failure on one rank ends all, instead of leaving them in backward().

        FSDP gathers inside: an error there ends the process, and the others lose it.
        """
        if self.sharded:
            return forward(part)
        found: list[Tensor] = []
        failure: Exception | None = None
        try:
            found.append(forward(part))
        except Exception as error:
            failure = forward.explain(error, part)
            failure.__cause__ = error
        if not self.all(failure is None):
            return self.together(lambda: _again(found, failure))
        return found[0]

    def part(self, batch: Batch) -> tuple[Batch, bool]:
        """See `Solo.part`; rank r has the rows [r·n/size, (r+1)·n/size)."""
        rows = n_rows(batch)
        start, end = self.rank * rows // self.size, (self.rank + 1) * rows // self.size
        real = end > start
        return _rows(batch, slice(start, end) if real else slice(0, 1)), real

    def weight(self, count: Callable[[Batch], int], part: Batch, whole: Batch) -> float:
        """See `Solo.weight`: with it the mean over ranks is the mean over terms."""
        total = count(whole)
        return self.size * count(part) / total if total else 1.0

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """See `Solo.step`.

        Raises:
            ProblemError: It needs whole parameters, and they are sharded.
        """
        try:
            optimizer.step()
        except (RuntimeError, NotImplementedError) as error:
            if not self.sharded or not any(word in str(error) for word in _OF_SHARDS):
                raise
            raise ProblemError(
                f"optimizer: {type(optimizer).__name__} cannot work on sharded parameters: "
                f"{first_line(error)[:90]}",
                hint="--set parallel=ddp, or another optimizer",
            ) from error

    def joined(self, value: float, norm: float, weight: float) -> tuple[float, float]:
        """See `Solo.joined`; one all-reduce.

        Raises:
            ProblemError: DDP did not average the gradients, since the loss went around it.
        """
        own = value * weight if weight else 0.0
        total, norms, squares = self.sums([own, norm, norm * norm])
        if self.sharded:
            return total / self.size, math.sqrt(squares) if squares >= 0.0 else math.nan
        mean = norms / self.size
        if squares / self.size - mean * mean > _SAME * mean * mean:
            raise ProblemError(
                f"the ranks' gradients differ (norms {mean:.6g} on average): the loss does not go "
                "through the model's forward",
                hint="call model(inputs) in the loss, not a part of the model",
            )
        return total / self.size, norm

    def norms(self, own: Sequence[float]) -> list[float]:
        """See `Solo.norms`."""
        if not self.sharded:
            return list(own)
        return [math.sqrt(total) for total in self.sums([norm * norm for norm in own])]

    def largest(self, values: dict[str, float], name: str) -> dict[str, float]:
        """See `Solo.largest`."""
        own = values.get(name, -math.inf)
        wire = torch.tensor([own], dtype=torch.float64, device=self._device)
        dist.all_reduce(wire, op=dist.ReduceOp.MAX)
        return {**values, name: wire.item()} if math.isfinite(wire.item()) else values

    def sums(self, own: Sequence[float]) -> list[float]:
        """See `Solo.sums`; one all-reduce in float64, the same bits on each rank."""
        wire = torch.tensor(list(own), dtype=torch.float64, device=self._device)
        dist.all_reduce(wire)
        return wire.tolist()

    def all(self, flag: bool) -> bool:
        """See `Solo.all`."""
        return not self.reducer.any(not flag)

    def main_decides(self, flag: bool) -> bool:
        """See `Solo.main_decides`."""
        return self.reducer.any(flag and self.is_main)

    def stopping(self, stop: StopRequest) -> bool:
        """See `Solo.stopping`."""
        wire = torch.tensor([float(stop.signum or 0)], device=self._device)
        dist.all_reduce(wire, op=dist.ReduceOp.MAX)
        signum = int(wire.item())
        if signum:
            stop.signum = signum
        return bool(signum)

    def gather(self, value: T) -> list[T]:
        """See `Solo.gather`; small and picklable."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def sync_buffers(self, model: nn.Module) -> None:
        """See `Solo.sync_buffers`."""
        with torch.no_grad():
            for buffer in model.buffers():
                wire = buffer.detach().to(self._device)
                dist.broadcast(wire, src=0)
                buffer.copy_(wire)


def _code(error: Exception) -> int:
    """The exit code that the command line gives an error."""
    return error.exit_code if isinstance(error, HomotopyError) else 70


def _pieces(batch: Batch, n: int) -> list[Batch]:
    """The batch in exactly n parts, rows as evenly as they go."""
    rows = n_rows(batch)
    ends = [i * rows // n for i in range(n + 1)]
    return [_rows(batch, slice(a, b)) for a, b in pairwise(ends)] if n > 1 else [batch]


def _rows(batch: Batch, chosen: slice) -> Batch:
    rows = n_rows(batch)
    return map_tensors(batch, lambda t: t[chosen] if t.ndim and len(t) == rows else t)


def _again(found: list[T], failure: Exception | None) -> T:
    if failure is not None:
        raise failure
    return found[0]


def _named(error: Exception, rank: int) -> Exception:
    """The same error with the rank before its message, where it has one text."""
    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"rank {rank}: {error.args[0]}",)
    if isinstance(error, HomotopyError):
        error.message = f"rank {rank}: {error.message}"
    return error
