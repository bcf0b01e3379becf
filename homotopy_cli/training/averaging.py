"""Optimizers with two sets of weights, one to train on and one to use: `train()` and `eval()`.

Schedule-Free (Defazio et al. 2024, arXiv:2405.15682) is the best known; any optimizer with both
methods is taken for one. A run trains, probes and saves on the first set; evaluation takes the
second for its own time and puts the first back from a copy: the optimizer's own eval() and
train() come back to other bits.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def has_two_sets(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer wants to be told which of its sets of weights is asked for."""
    return all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))


def begin_training(optimizer: torch.optim.Optimizer) -> None:
    """Switch to the weights to train on; nothing for optimizers with one set."""
    if has_two_sets(optimizer):
        optimizer.train()  # type: ignore[attr-defined]


@contextmanager
def weights_to_use(optimizer: torch.optim.Optimizer, params: Sequence[Tensor]) -> Iterator[None]:
    """The model holds the weights to use within, and its training weights again afterwards."""
    if not has_two_sets(optimizer):
        yield
        return
    kept = [p.detach().clone() for p in params]
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        with torch.no_grad():
            torch._foreach_copy_(list(params), kept)
