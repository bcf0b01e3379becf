"""What training data are to the rest of the package."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from homotopy_cli.errors import ProblemError
from homotopy_cli.zoo.randomness import keyed_generator

Kind = Literal["tokens", "masked", "classes", "regression", "none"]
IGNORED = -100  # a target that no loss counts: torch's default ignore_index
Batch = Any  # (inputs, targets), or whatever the model and its loss take


@dataclass(frozen=True)
class DataInfo:
    """The facts about a data set that a model needs to be built, and a reader to judge a loss."""

    kind: Kind
    description: str  # one line
    n_classes: int = 0  # kind "classes"
    vocab_size: int = 0  # where inputs are tokens; 0: they are not
    context: int = 0  # where inputs are tokens: tokens per example
    pad: int | None = None  # where inputs are tokens: the one that fills up short rows
    input_shape: tuple[int, ...] = ()  # of one example
    target_shape: tuple[int, ...] = ()  # of one example; () for one number
    n_rows: int = 0  # kind "none": distinct examples
    noise: float = 0.0  # kind "none": standard deviation of each gradient component
    baseline: Mapping[str, float] = field(default_factory=dict)  # name -> loss it reaches, nats
    note: str = ""  # what the opening lines of a run say about the data


class DataSource(Protocol):
    """Batches without state."""

    info: DataInfo
    n_train: int  # examples
    n_eval: int  # held-out examples

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """The training batch of optimizer step `step` (0-based): a pure function."""
        ...

    def eval_batches(self, batch_size: int, n: int) -> list[Batch]:
        """At most `n` batches of held-out examples; the last may be smaller."""
        ...

    def probe_batches(self, batch_size: int, n: int = 1) -> list[Batch]:
        """The fixed held-out batches that a probe of a checkpoint measures on."""
        ...


def spread(n_items: int, n_wanted: int) -> Tensor:
    """min(n_wanted, n_items) distinct indices, evenly spread over range(n_items)."""
    n = min(n_wanted, n_items)
    return torch.div(torch.arange(n) * n_items, n, rounding_mode="floor") if n else torch.arange(0)


class Rows:
    """Examples in memory, drawn without replacement: each epoch is a new permutation.

    An epoch has n_train // batch_size batches; what is left over is drawn in later epochs.
    """

    def __init__(
        self,
        info: DataInfo,
        train: tuple[Tensor, ...],
        held_out: tuple[Tensor, ...],
        *,
        transform: Callable[[tuple[Tensor, ...], torch.Generator | None], Batch] | None = None,
    ) -> None:
        """
        Args:
            train, held_out: Tensors with examples along dim 0; without any held-out example
                the training examples are used for evaluation, and `info` should say so.
            transform: From drawn rows to a batch; the generator is None for held-out rows.
        """
        self.info = info
        self.n_train, self.n_eval = len(train[0]), len(held_out[0])
        self._train = train
        self._held_out = held_out if self.n_eval else train
        self._transform = transform or (lambda rows, generator: rows)
        self._order: tuple[tuple[int, int], Tensor] | None = None  # the epoch drawn last

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """The rows of step `step`.

        Raises:
            ProblemError: More rows wanted than there are.
        """
        if batch_size > self.n_train:
            raise ProblemError(
                f"batch_size {batch_size} is larger than the {self.n_train} training examples",
                hint=f"--set batch_size={self.n_train}",
            )
        epoch, position = divmod(step, self.n_train // batch_size)
        rows = self._permutation(seed, epoch)[position * batch_size : (position + 1) * batch_size]
        drawn = tuple(part[rows] for part in self._train)
        return self._transform(drawn, keyed_generator(seed, step, 1))

    def eval_batches(self, batch_size: int, n: int) -> list[Batch]:
        """Held-out rows, evenly spread, the same at every call."""
        rows = spread(len(self._held_out[0]), batch_size * n)
        return [
            self._transform(tuple(part[chunk] for part in self._held_out), None)
            for chunk in rows.split(batch_size)
        ]

    def probe_batches(self, batch_size: int, n: int = 1) -> list[Batch]:
        """As eval_batches."""
        return self.eval_batches(batch_size, n)

    def _permutation(self, seed: int, epoch: int) -> Tensor:
        order = self._order  # read once: another thread may replace it
        if order is None or order[0] != (seed, epoch):
            generator = keyed_generator(seed, epoch)
            order = (seed, epoch), torch.randperm(self.n_train, generator=generator)
            self._order = order
        return order[1]


def split_rows(n: int, holdout: float) -> tuple[Tensor, Tensor]:
    """Indices (train, held out) of n rows: a fixed shuffle, since files are often sorted.

    The split never depends on the run's seed: two seeds are judged on the same rows. At
    least one row is held out if holdout > 0 and n > 1.
    """
    order = torch.randperm(n, generator=keyed_generator(n, 0x5EED))
    n_eval = min(n - 1, max(1, round(n * holdout))) if holdout > 0 and n > 1 else 0
    return order[n_eval:].sort().values, order[:n_eval].sort().values


def class_entropy(labels: Tensor) -> float:
    """-Σ p log p of the class frequencies, nats: the loss of a model that only counts."""
    p = torch.bincount(labels.reshape(-1)).double() / labels.numel()
    return float(-(p[p > 0] * p[p > 0].log()).sum())
