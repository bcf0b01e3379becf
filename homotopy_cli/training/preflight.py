"""The first batch's loss, before anything is written: what cannot be trained is said at once."""

import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import nn

from homotopy_cli.problems.nest import n_rows, split_rows
from homotopy_cli.training.build import Run
from homotopy_cli.training.evaluate import loss_of
from homotopy_cli.training.forward import refuse_constant

ROWS = 8  # with which the loss's graph is looked at: little memory, and enough for batch norm


def preflight(run: Run, step: int) -> None:
    """One forward pass over the batch of `step`, and one over a few of its rows with a graph.

    Of an accumulated batch the first part. Leaves no trace: buffers and generators are put back.
    Under FSDP, whose forward pass waits for the other ranks, nothing is tried.

    Raises:
        ProblemError: Model, loss and data do not fit together, or no gradient comes of them.
    """
    if run.ranks.sharded:
        return
    batch = run.batch(step)
    batch = split_rows(batch, max(1, -(-n_rows(batch) // run.recipe.accumulate)))[0]
    with _untouched(run.model):
        with torch.no_grad():
            loss_of(run.loss, run.model, batch)
        few = None
        with suppress(Exception):  # a loss may want all rows: the first step looks at its graph
            few = loss_of(run.loss, run.model, split_rows(batch, ROWS)[0])
        if few is not None:
            refuse_constant(few, run.loss)


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Buffers, also those that a forward pass replaces, and every generator as they were."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    kept: list[tuple[nn.Module, dict[str, Any], dict[str, Any]]] = []
    for module in model.modules():
        named = dict(module._buffers)
        kept.append((module, named, {k: v.clone() for k, v in named.items() if v is not None}))
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        with torch.no_grad():
            for module, named, values in kept:
                module._buffers.update(named)
                for name, value in values.items():
                    named[name].copy_(value)
