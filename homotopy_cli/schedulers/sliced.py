"""A slice of a training batch as a Problem: the mean loss over some rows of every rank's batch."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.criteria import NAMES, Loss, resolve_loss
from homotopy_cli.problems.evaluation import with_gradients_if_needed
from homotopy_cli.problems.misfit import explain_misfit
from homotopy_cli.problems.nest import Batch, n_indices, n_rows
from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.reducer import each
from homotopy_cli.problems.sharded import is_sharded
from homotopy_cli.schedulers.cadence import PASS, pass_cost
from homotopy_cli.schedulers.ranks import all_ranks
from homotopy_cli.schedulers.slices import (
    least_rows,
    slice_size,
    take_rows,
    why_not_sliced,
)

LossLike = Loss | Callable[..., Tensor] | str | None


class SlicedProblems:
    """Makes the Problems that probes measure, and knows whether slices stand for a batch.

    Args:
        model: In whatever mode it trains; wrappers (DDP, compile) are taken off.
        loss_fn: A problems.criteria.Loss, its name, or a callable: loss_fn(outputs, targets)
            for a pair of inputs and targets, loss_fn(model, batch) for a whole batch. None
            guesses from the batch.
        seed: Of dropout masks.
    """

    def __init__(self, model: nn.Module, loss_fn: LossLike, *, seed: int = 0) -> None:
        self.model, self.loss_fn, self.seed = model, loss_fn, seed
        self.guessed = ""  # the evidence, where no loss was given and one was guessed
        self.whole: bool | None = None  # slices do not stand for the batch; None: not tried yet
        self.per_pass = PASS  # G, of the last probe's device and sizes: see cadence
        self.why_whole = "another rank's slices do not stand for its batch"  # or this one's

    def problem(
        self, batch: Batch, fraction: float, *, paired: bool, step: int
    ) -> tuple[Problem, float]:
        """The mean loss over a slice of every rank's batch, and the slices' share of all rows."""
        reducer = all_ranks()
        each(reducer, lambda: self._judge_slices(batch, fraction, paired=paired))
        verdicts = reducer.together(lambda: self.whole)
        if any(verdict is not None for verdict in verdicts):
            self.whole = any(verdicts)  # all ranks alike
        part = each(reducer, lambda: self.part(batch, fraction))
        problem = self.over(part, paired=paired, step=step)
        taken = reducer.together(lambda: (n_rows(part), n_rows(batch), n_indices(part)))
        share = sum(some for some, *_ in taken) / sum(rows for _, rows, _ in taken)
        self.per_pass = pass_cost(
            problem.device.type,
            n_tensors=len(problem.params),
            n_params=problem.n_params,
            n_terms=max(problem.n_terms, sum(n for *_, n in taken)) / share / reducer.size,
        )
        return problem, share

    def part(self, batch: Batch, fraction: float) -> Batch:
        """The rows of this rank's batch that a probe measures."""
        return take_rows(batch, fraction, self.slice_size(n_rows(batch), fraction))[0]

    def over(self, part: Batch, *, paired: bool, step: int) -> Problem:
        """The mean loss over all of every rank's `part`, with the dropout mask of `step`."""
        reducer = all_ranks()
        loss = each(reducer, lambda: self._loss(part, paired=paired))
        return Problem.from_module(
            self.model, loss, [part], mode="keep", seed=self.seed + step, reducer=reducer
        )

    def slice_size(self, rows: int, fraction: float) -> int:
        """Rows of a slice of a batch of `rows`."""
        return rows if self.whole else slice_size(rows, fraction, least_rows(self.model))

    def _judge_slices(self, batch: Batch, fraction: float, *, paired: bool) -> None:
        """The first time: whether slices stand for a batch."""
        size = self.slice_size(n_rows(batch), fraction)
        if size < n_rows(batch) and self.whole is None:
            why = self._why_not_sliced(batch, self._loss(batch, paired=paired), size)
            self.whole, self.why_whole = bool(why), why or self.why_whole

    def _why_not_sliced(self, batch: Batch, loss: Any, size: int) -> str:
        """See slices; a named loss is a mean over rows, and a sharded model is trusted."""
        if (isinstance(loss, Loss) and loss.name in NAMES) or is_sharded(self.model):
            return ""

        def losses(batches: Sequence[Batch]) -> list[float]:
            problem = Problem.from_module(self.model, loss, batches, mode="keep", seed=self.seed)
            if len(problem.batches) < len(batches):
                return [math.nan] * len(batches)  # some are without any target
            with torch.no_grad():
                found = with_gradients_if_needed(
                    lambda: [problem.batch_loss(i).detach() for i in range(len(batches))]
                )
            return [float(value) for value in found]

        return why_not_sliced(losses, batch, size)

    def _loss(self, batch: Batch, *, paired: bool) -> Loss | Callable[[nn.Module, Batch], Tensor]:
        if self.loss_fn is None or isinstance(self.loss_fn, str):
            found = resolve_loss(self.loss_fn, model=self.model, batch=batch)
            self.guessed = found.reason if self.loss_fn is None else ""
            self.loss_fn = found
        if isinstance(self.loss_fn, Loss) or not paired:
            return self.loss_fn
        function = self.loss_fn

        def of_pair(model: nn.Module, pair: Batch) -> Tensor:
            inputs, targets = pair
            try:
                outputs = model(inputs)
            except _CALLED_WRONGLY as error:
                kind = "dict" if isinstance(inputs, Mapping) else type(inputs).__name__
                hint = _ONE_ARGUMENT.format(kind=kind)
                raise ProblemError(explain_misfit(error, model, pair).message, hint=hint) from error
            try:
                return function(outputs, targets)
            except _CALLED_WRONGLY as error:
                raise ProblemError(
                    explain_misfit(error, model, pair).message, hint=_PAIR
                ) from error

        of_pair.__name__ = getattr(function, "__name__", type(function).__name__)  # in errors
        return of_pair


_CALLED_WRONGLY = (TypeError, AttributeError)
_ONE_ARGUMENT = (
    "the model was called with one {kind}; where your loop calls it otherwise, give "
    "loss_fn(model, batch) and call update_curvature(batch=batch)"
)
_PAIR = (
    "loss_fn was called loss_fn(model(inputs), targets); for loss_fn(model, batch) call "
    "update_curvature(batch=batch)"
)
