"""The first batch's loss, before anything is written: what cannot be trained is said at once."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from homotopy_cli.problems.nest import split_rows
from homotopy_cli.training.build import Run
from homotopy_cli.training.evaluate import loss_of
from homotopy_cli.training.forward import refuse_constant

ROWS = 8  # with which the loss's graph is looked at: little memory, and enough for batch norm


def preflight(run: Run, step: int) -> None:
    """One forward pass over the batch of `step`, and one over a few of its rows with a graph.

    Leaves no trace: buffers and generators are put back. Under FSDP, whose forward pass waits for
    the other ranks, nothing is tried.

    Raises:
        ProblemError: Model, loss and data do not fit together, or no gradient comes of them.
    """
    if run.ranks.sharded:
        return
    batch = run.batch(step)
    with _untouched(run.model):
        with torch.no_grad():
            loss_of(run.loss, run.model, batch)
        refuse_constant(loss_of(run.loss, run.model, split_rows(batch, ROWS)[0]), run.loss)


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
