"""How many terms a mean loss averages over: the weight of its batch."""

from collections.abc import Mapping

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


def count_output(batch: Batch) -> int:
    """Terms of a model's own loss: its targets, without the first of each row where it shifts.

    Labels that are the tokens themselves, wherever they count, are those of a causal language
    model, which takes scores at t against the token at t+1: column 0 is never a target.
    """
    _, target = split_target(batch)
    tokens = batch.get("input_ids") if isinstance(batch, Mapping) else None
    if target is None or tokens is None or target.ndim != 2 or target.shape != tokens.shape:
        return count_targets(batch)
    if not bool(((target == tokens) | (target == IGNORED)).all()):
        return count_targets(batch)
    return count_tokens(target[:, 1:])


def count_elements(batch: Batch) -> int:
    """Numbers of the targets: what a mean over elements divides by."""
    _, target = split_target(batch)
    return n_rows(batch) if target is None else target.numel()


def class_mass(batch: Batch, weight: Tensor | None = None, *, ignored: int = IGNORED) -> float:
    """What the mean of a cross entropy divides by, up to a factor that all batches share.

    Args:
        batch: With class indices, or with class probabilities: then each position counts 1.
        weight: Of each class, shape (classes,): indices count Σ w_y.
        ignored: Index that does not count.
    """
    _, target = split_target(batch)
    if target is None or not is_index(target):
        return float(count_elements(batch))
    if weight is None:
        return float(count_targets(batch, ignored=ignored))
    kept = target[target != ignored].long()
    return weight.to(kept.device).double()[kept].sum().item()
