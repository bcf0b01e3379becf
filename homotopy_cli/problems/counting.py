"""How many terms a mean loss averages over: the weight of its batch."""

from torch import Tensor

from homotopy_cli.problems.calling import split_target
from homotopy_cli.problems.nest import Batch, is_index, n_rows
from homotopy_cli.zoo.data import IGNORED


def count_rows(batch: Batch) -> int:
    """Rows of the batch."""
    return n_rows(batch)


def count_tokens(target: Tensor, *, ignored: int = IGNORED) -> int:
    """Targets that are not ignored."""
    return int((target != ignored).sum())


def count_targets(batch: Batch, *, ignored: int = IGNORED) -> int:
    """Integer targets, one per row or per position, that are not ignored; else rows.

    Class-index targets are what `ignore_index` applies to; float targets are counted by rows.
    """
    _, target = split_target(batch)
    if target is None or not is_index(target) or target.ndim == 0:
        return n_rows(batch)
    return count_tokens(target, ignored=ignored)
