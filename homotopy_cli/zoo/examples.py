"""A map-style dataset as rows: the examples of a batch are read when it is drawn.

They are read under generators seeded for the step, so a random augmentation is the same again
when a run is resumed, and draws nothing from the run's own generators.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import default_collate

from homotopy_cli.errors import HomotopyError, ProblemError, first_line
from homotopy_cli.zoo.data import Batch, DataInfo, Rows, class_entropy, split_rows
from homotopy_cli.zoo.randomness import seeded_globals

HOLDOUT = 0.1  # of what comes without held-out examples of its own
_EVAL = 0x4E4C  # seed under which held-out examples are read


@dataclass(frozen=True)
class Examples:
    """A map-style dataset, and what makes a batch of a list of its examples."""

    dataset: Any
    collate: Callable[[list[Any]], Batch] = default_collate


def dataset_rows(parts: Sequence[Examples], origin: str, dtype: torch.dtype) -> Rows:
    """Rows that are example numbers.

    Args:
        parts: The training examples, of which a tenth is held out; or training and held out.
        origin: How messages and the description name them.
        dtype: Of floating tensors in a batch.

    Raises:
        ProblemError: An example cannot be read, or two of them make no batch.
    """
    reader = _Reader(parts, origin, dtype)
    n = len(parts[0].dataset)
    if len(parts) == 2:
        train, held_out = torch.arange(n), n + torch.arange(len(parts[1].dataset))
    else:
        train, held_out = split_rows(n, HOLDOUT)
    first = reader.batch((train[: min(2, len(train))],), None)
    info = _info(parts[0].dataset, first, len(train), len(held_out), origin)
    return Rows(info, (train,), (held_out,), transform=reader.batch)


class _Reader:
    """Example numbers -> a batch."""

    def __init__(self, parts: Sequence[Examples], origin: str, dtype: torch.dtype) -> None:
        self._parts, self._origin, self._dtype = parts, origin, dtype

    def batch(self, rows: tuple[Tensor, ...], generator: Generator | None) -> Batch:
        """The collated examples; what they draw depends on the step's generator alone."""
        seed = _EVAL if generator is None else generator.initial_seed()
        numbers, part = rows[0].tolist(), self._parts[0]
        n = len(part.dataset)
        if numbers and numbers[0] >= n and len(self._parts) == 2:  # a batch is of one part
            numbers, part = [number - n for number in numbers], self._parts[1]
        with seeded_globals(seed):
            examples = [self._example(part.dataset, number) for number in numbers]
            try:
                batch = part.collate(examples)
            except Exception as error:  # user code: anything may come
                raise ProblemError(
                    f"data {self._origin}: {len(examples)} examples do not make a batch: "
                    f"{first_line(error, named=True)[:120]}",
                    hint="examples of equal shape, or a DataLoader with a collate_fn of its own",
                ) from error
        return _cast(batch, self._dtype)

    def _example(self, dataset: Any, number: int) -> Any:
        try:
            return dataset[number]
        except HomotopyError:
            raise
        except Exception as error:  # user code: anything may come
            raise ProblemError(
                f"data {self._origin}: example {number} cannot be read: "
                f"{first_line(error, named=True)}",
                hint="--debug shows the whole traceback",
            ) from error


def _info(dataset: Any, batch: Batch, n: int, n_held_out: int, origin: str) -> DataInfo:
    """What two examples tell; classes are counted only where the dataset holds its labels."""
    tail = f"{n_held_out} held out" if n_held_out else "none held out: evaluated on training rows"
    words = f"{origin}: {n} training examples, {tail}"
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    if not (pair and all(isinstance(part, Tensor) and part.ndim for part in batch)):
        return DataInfo(kind="none", description=words)
    x, y = batch
    shapes = {"input_shape": tuple(x.shape[1:]), "target_shape": tuple(y.shape[1:])}
    if y.is_floating_point():
        return DataInfo(kind="regression", description=words, **shapes)
    labels = _labels(dataset)
    counted = int(labels.max()) + 1 if labels is not None else 0
    named = getattr(dataset, "classes", None)
    named = len(named) if isinstance(named, Sequence) else 0
    return DataInfo(
        kind="classes",
        description=words,
        n_classes=max(counted, named),
        baseline={} if labels is None else {"class_entropy": class_entropy(labels)},
        **shapes,
    )


def _labels(dataset: Any) -> Tensor | None:
    """Every label, where a dataset keeps them as `targets` or `labels`."""
    for name in ("targets", "labels"):
        held = getattr(dataset, name, None)
        if held is not None and not callable(held):
            try:
                labels = torch.as_tensor(held)
            except (ValueError, TypeError, RuntimeError):
                continue
            fits = labels.ndim == 1 and len(labels) == len(dataset) and not labels.is_complex()
            if fits and not labels.is_floating_point() and int(labels.min()) >= 0:
                return labels.long()
    return None


def _cast(batch: Batch, dtype: torch.dtype) -> Batch:
    """Floating tensors of a nest in `dtype`."""
    if isinstance(batch, Tensor):
        return batch.to(dtype) if batch.is_floating_point() else batch
    if isinstance(batch, Mapping):
        items = {key: _cast(value, dtype) for key, value in batch.items()}
        try:
            return type(batch)(items)  # as a tokenizer's BatchEncoding, read by attribute
        except TypeError:
            return items
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_cast(value, dtype) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(_cast(value, dtype) for value in batch)
    return batch
