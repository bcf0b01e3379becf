"""One learning rate on all ranks: a probe measures the mean loss over all ranks' batches."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from homotopy_cli.problems.reducer import LOCAL, ProcessGroupReducer, Reducer
from homotopy_cli.problems.sharded import shard_of


def world_size() -> int:
    """Ranks of the default process group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_ranks() -> Reducer:
    """The default process group's ranks, or this one where there is none."""
    return ProcessGroupReducer() if world_size() > 1 else LOCAL


def mean_over_ranks(values: Sequence[float]) -> list[float]:
    """The mean of every value over all ranks, the same bits on each; NaN on one is NaN on all.

    Every rank must call it equally often: a rank whose probe failed sends NaN.
    """
    world = world_size()
    if world == 1:
        return [float(v) for v in values]
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return (total / world).tolist()


def gradient_is_finite(optimizer: Optimizer, *, known: bool = True) -> bool:
    """Whether every entry of `.grad` is, on every rank; each of them must call it.

    Args:
        optimizer: Of the parameters.
        known: False: this rank knows already that its gradient is not.
    """
    groups = optimizer.param_groups
    grads = [shard_of(p.grad) for g in groups for p in g["params"] if p.grad is not None]
    entries = (grad.coalesce().values() if grad.is_sparse else grad for grad in grads)
    finite = known and _all_finite(list(entries))
    return mean_over_ranks([float(finite)])[0] == 1.0


def _all_finite(parts: Sequence[Tensor]) -> bool:
    """Whether every entry of every tensor is, with one answer to wait for."""
    if not parts:
        return True
    flags = [torch.isfinite(part).all().to(parts[0].device) for part in parts]
    return bool(torch.stack(flags).all())
