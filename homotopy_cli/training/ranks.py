"""One process, or the ranks of a torchrun: what a training loop must ask the others.

`Solo` answers for one process and changes nothing; `group.Group` asks the others.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from homotopy_cli.errors import HomotopyError, RecipeError
from homotopy_cli.problems.nest import Batch
from homotopy_cli.problems.reducer import LOCAL
from homotopy_cli.training.forward import Forward, backward
from homotopy_cli.training.signals import StopRequest

T = TypeVar("T")


class SaidElsewhere(HomotopyError):
    """An error that another rank reports: this one leaves with the same code, in silence."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("", exit_code=exit_code)


class Solo:
    """One process: nobody to ask."""

    rank, size, is_main = 0, 1, True
    sharded = False
    parallel = ""
    program = "homotopy"  # what to type before the verb, for hints
    reducer = LOCAL

    def facts(self) -> dict[str, str]:
        """What the log's environment says about the ranks."""
        return {}

    def on_main(self, function: Callable[[], T]) -> T:
        """What rank 0's call returns, on every rank; its error ends all ranks."""
        return function()

    def together(self, function: Callable[[], T]) -> T:
        """What this rank's call returns; an error on one rank ends all ranks."""
        return function()

    def backward(self, forward: Forward, batch: Batch, *, accumulate: int, weight: float) -> Tensor:
        """See forward.backward: the mean loss over this rank's terms, detached.

        The gradient is that of the mean over all ranks' terms.
        """
        return backward(forward, batch, accumulate=accumulate)

    def part(self, batch: Batch) -> tuple[Batch, bool]:
        """(this rank's rows, whether they count): a rank without a row repeats the first."""
        return batch, True

    def weight(self, count: Callable[[Batch], int], part: Batch, whole: Batch) -> float:
        """Size x this rank's share of the batch's loss terms: 1 where all have as many."""
        return 1.0

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """optimizer.step()."""
        optimizer.step()

    def joined(self, value: float, norm: float, weight: float) -> tuple[float, float]:
        """(mean loss over all ranks' terms, ‖g‖ of its gradient)."""
        return value, norm

    def norms(self, own: Sequence[float]) -> list[float]:
        """Norms of the whole gradients of which `own` are those of this rank's shards."""
        return list(own)

    def largest(self, values: dict[str, float], name: str) -> dict[str, float]:
        """The values with `name` as the largest over ranks, where a rank has it."""
        return values

    def sums(self, own: Sequence[float]) -> list[float]:
        """Sums over ranks."""
        return list(own)

    def all(self, flag: bool) -> bool:
        """Whether the flag is set on every rank."""
        return flag

    def main_decides(self, flag: bool) -> bool:
        """Rank 0's flag."""
        return flag

    def stopping(self, stop: StopRequest) -> bool:
        """Whether a signal reached any rank; `stop` then names it on all of them."""
        return stop.signum is not None

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in their order."""
        return [value]

    def sync_buffers(self, model: nn.Module) -> None:
        """Give every rank rank 0's buffers (BatchNorm's running statistics)."""


SOLO = Solo()


Ranks = Solo  # or its subclass group.Group


def refuse_small_batches(recipe: Any, ranks: Ranks) -> None:
    """Raise RecipeError where a rank would have no row for each of its parts."""
    size, parts = ranks.size, recipe.accumulate
    if size > 1 and recipe.batch_size // size < parts:
        wanted = f"{size} ranks" + (f" x accumulate {parts}" if parts > 1 else "")
        raise RecipeError(
            f"batch_size: {recipe.batch_size} rows are too few for {wanted}",
            hint=f"--set batch_size={size * parts}, or fewer processes",
        )


class NoLog:
    """What the ranks that write nothing have in place of a RunWriter."""

    unclosed, lost_rows = "", 0

    def append_step(self, record: Any) -> None:
        """Rank 0 writes it."""

    append_probe = append_event = append_eval = append_step

    def close(self, status: str) -> None:
        """Nothing is open."""
