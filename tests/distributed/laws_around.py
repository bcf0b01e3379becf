"""Schedulers, gradient noise and components over two ranks; run by distributed_launch.py."""

import pickle

import torch
from distributed_splits import own_rows, parts
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from homotopy_cli.curvature.components import measure_components
from homotopy_cli.curvature.noise import gradient_noise
from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.reducer import ProcessGroupReducer
from homotopy_cli.schedulers.homotopy import HomotopyLR

STEPS, ROWS = 30, 16


def network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double()


def rows_of(step):
    generator = torch.Generator().manual_seed(100 + step)
    x = torch.randn(ROWS, 6, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 1).long()


def shard(batch, rank, cut):
    """The first `cut` rows for rank 0, the others for rank 1."""
    rows = slice(0, cut) if rank == 0 else slice(cut, None)
    return tuple(t[rows] for t in batch)


def rates(kind, model, share, make):
    """Learning rates of a run in which each rank sees its share of every batch."""
    optimizer = make(model.parameters())
    criterion = nn.CrossEntropyLoss()
    scheduler = HomotopyLR(
        optimizer,
        model,
        criterion,
        total_steps=STEPS,
        budget=float("inf"),
        probe_fraction=1.0,
        layers_freq=7,
    )
    found = []
    for step in range(STEPS):
        x, y = share(rows_of(step))
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        scheduler.update_curvature(x, y)
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found, scheduler.n_failed_probes


OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=5.0),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.5),
}


def law_even_shards(rank):
    return {
        kind: rates(
            kind, DistributedDataParallel(network()), lambda b: shard(b, rank, ROWS // 2), make
        )
        for kind, make in OPTIMIZERS.items()
    }


def law_fully_sharded(rank):
    """AdamW on FSDP2's shards: its metric is put together from all ranks."""
    model = network()
    fully_shard(model[0])
    fully_shard(model)
    make = OPTIMIZERS["adamw"]
    return rates("adamw", model, lambda b: shard(b, rank, ROWS // 2), make)


def law_one_process(rank):
    """The same run without ranks, in the pytest process."""
    return {kind: rates(kind, network(), lambda b: b, make) for kind, make in OPTIMIZERS.items()}


def law_uneven_shards(rank):
    """Rows for rank 0 change from step to step, so that each rank's own cost would differ."""
    model = DistributedDataParallel(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    criterion = nn.CrossEntropyLoss()
    scheduler = HomotopyLR(optimizer, model, criterion, total_steps=200, layers_freq=3)
    found = []
    for step in range(STEPS):
        x, y = shard(rows_of(step), rank, 1 + step % (ROWS - 1))
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        scheduler.update_curvature(x, y)
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def _batches():
    model, loss, _ = parts("mlp")
    generator = torch.Generator().manual_seed(1)
    batches = []
    for n in (5, 8, 6, 7, 9):
        x = torch.randn(n, 5, generator=generator, dtype=torch.float64)
        batches.append((x, torch.randint(3, (n,), generator=generator)))
    return model, loss, batches


def law_noise(rank):
    model, loss, batches = _batches()
    own = batches[:2] if rank == 0 else batches[2:]
    return gradient_noise(Problem.from_module(model, loss, own, reducer=ProcessGroupReducer()))


def alone_noise():
    return gradient_noise(Problem.from_module(*_batches()))


def alone_components(name):
    """Both ranks' rows as batches of one process."""
    model, loss, batches = parts(name)
    rows = own_rows(batches, 0) + own_rows(batches, 1)
    return measure_components(Problem.from_module(model, loss, rows))


def law_components(rank):
    found = {}
    for name in ("tied gpt", "conv bn", "ignored tokens"):
        model, loss, batches = parts(name)
        problem = Problem.from_module(
            model, loss, own_rows(batches, rank), reducer=ProcessGroupReducer()
        )
        components = measure_components(problem)
        found[name] = components, pickle.dumps(components)
    return found
