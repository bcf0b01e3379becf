"""torchrun: the process group, and a model spread over it by DDP or FSDP2.

    torchrun --nproc-per-node 2 -m homotopy_cli train recipes/x.yaml

`parallel: ddp` (the default with several processes) keeps a replica on every rank and averages
gradients; `parallel: fsdp` gives every rank a shard of each parameter, of the gradients and of
the optimizer's state (torch's `fully_shard`, per block and for the rest). Gloo carries CPU
tensors, NCCL those of the GPU whose number is LOCAL_RANK.

Randomness: the same seed draws the same weights and the same batches on all ranks; rank r > 0
then seeds its generators with seed + r, so that dropout masks differ.
"""

import gc
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.errors import HomotopyError, first_line
from homotopy_cli.problems.nest import split_rows
from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.sharded import is_sharded
from homotopy_cli.training.devices import resolve_device
from homotopy_cli.training.group import Group
from homotopy_cli.training.ranks import SOLO, Ranks, SaidElsewhere

LAUNCH = "torchrun --nproc-per-node 2 -m homotopy_cli train RECIPE.yaml"
ROWS = 8  # of the first batch, to find parameters that no gradient reaches
WAIT = 3.0  # seconds that a silent rank leaves to the one that speaks: torchrun ends all at once
_SPOKEN = "homotopy/spoken"  # key of the rendezvous store: who reports the end
_LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|by peer|gloo|nccl|broken pipe|timed out", re.I
)


def n_ranks() -> int:
    """Processes that the launcher started: torchrun's WORLD_SIZE, else 1.

    Raises:
        HomotopyError: WORLD_SIZE is there and the rest of a launcher's settings is not.
    """
    given = os.environ.get("WORLD_SIZE", "1")
    if not given.isdigit() or int(given) < 1:
        raise HomotopyError(f"WORLD_SIZE is {given!r}, not a number of processes", hint=LAUNCH)
    size = int(given)
    wanted = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in wanted if name not in os.environ]
    if size > 1 and missing:
        raise HomotopyError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} are not set", hint=LAUNCH
        )
    return size


@contextmanager
def process_group(parallel: str | None, device: str = "cpu") -> Iterator[Ranks]:
    """The ranks of this run, for as long as the block lasts; SOLO without a launcher.

    At a good end every rank waits for the slowest. An error ends all ranks, and exactly one of
    them reports it: the one that had it, or the first to notice that another is gone.

    Args:
        parallel: The recipe's key; None is ddp.
        device: The recipe's; on cuda each rank has the GPU whose number is LOCAL_RANK.

    Raises:
        HomotopyError: No GPU of its own for a rank, or a launcher's settings are incomplete.
    """
    if n_ranks() == 1:
        yield SOLO
        return
    store, rank, size = next(dist.rendezvous("env://"))
    spoken = dist.PrefixStore(_SPOKEN, store)
    try:
        cuda = resolve_device(device.partition(":")[0]).type == "cuda"
        if cuda:
            _own_gpu()
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            store=dist.PrefixStore("homotopy", store),
            rank=rank,
            world_size=size,
        )
        yield Group(parallel or "ddp")
        dist.barrier()
    except BaseException as error:
        if isinstance(error, SaidElsewhere) or not _first_to_speak(spoken):
            time.sleep(WAIT)
            raise SaidElsewhere(getattr(error, "exit_code", 70)) from error
        if is_lost_rank(error):
            raise lost_rank(error) from error
        raise
    _leave()


def _leave() -> None:
    """End the group while Python still runs.

    A wrapped model keeps the group alive, and with it gloo's threads; one that frees its last
    tensor while the interpreter shuts down aborts the process, after a run that went well.
    """
    gc.collect()
    dist.destroy_process_group()


def is_lost_rank(error: BaseException) -> bool:
    """Whether a collective failed because another process is gone."""
    kinds = (dist.DistBackendError, dist.DistNetworkError)
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and bool(_LOST.search(str(error)))
    )


def lost_rank(error: BaseException) -> HomotopyError:
    """The error of a rank whose partner is gone."""
    words = re.sub(r"^\[[^]]*\] *", "", first_line(error))
    said = words.split(". ")[0][:80]
    return HomotopyError(
        f"another rank is gone, so rank {dist.get_rank()} ends too ({said})",
        hint="look for the reason above (memory?), then the same command with --resume",
        exit_code=70,
    )


def _first_to_speak(store: Any) -> bool:
    try:
        return store.add("n", 1) == 1
    except RuntimeError:  # the store went with the rank that held it
        return True


def _own_gpu() -> None:
    local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= there:
        raise HomotopyError(
            f"local rank {local} has no GPU of its own: this machine has {there}",
            hint=f"--nproc-per-node {max(1, there)}, or --set device=cpu",
        )
    torch.cuda.set_device(local)


class Replica(DistributedDataParallel):
    """DDP through which a loss can still read the model's own attributes."""

    def __getattr__(self, name: str) -> Any:
        """The wrapper's, else the module's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":
                raise
            return getattr(super().__getattr__("module"), name)


def spread(model: nn.Module, ranks: Ranks, loss: Any, batch: Callable[[], Any]) -> nn.Module:
    """The module to call in training: `model` itself, sharded in place, or a DDP around it.

    The names of `model`'s parameters stay; all ranks get rank 0's weights and buffers.

    Args:
        loss: A problems.criteria.Loss.
        batch: Gives this rank's rows of the first batch. Where they do not reach a parameter, DDP
            is told to look for such parameters at every step.
    """
    if isinstance(ranks, Group) and not ranks.sharded:
        device = next(model.parameters()).device
        return Replica(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            find_unused_parameters=not ranks.all(_reaches_all(model, loss, batch())),
        )
    if isinstance(ranks, Group):
        _shard(model, ranks)
    return model


def _reaches_all(model: nn.Module, loss: Any, batch: Any) -> bool:
    """Whether every trainable parameter gets a gradient; costs one on a few rows, no trace left."""
    try:
        problem = Problem.from_module(model, loss, [split_rows(batch, ROWS)[0]], mode="keep")
        graph = GradientGraph(problem, keep_graph=False)
    except Exception:  # the first step meets it again, where it can be said
        return False
    return all(graph.state_of(name) != "not_reached" for name in problem.params)


def _shard(model: nn.Module, ranks: Group) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next(model.parameters()).device
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach(), src=0)
    mesh = init_device_mesh(device.type, (ranks.size,))
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated parts to gather one at a time: what a ModuleList or Sequential holds.

    Outermost only, none that is a single layer, and none that shares a parameter with the rest.
    """
    owners: dict[int, int] = {}
    for module in model.modules():
        for p in module._parameters.values():
            if p is not None:
                owners[id(p)] = owners.get(id(p), 0) + 1
    found: list[nn.Module] = []

    def visit(module: nn.Module, listed: bool) -> None:
        container = isinstance(module, nn.ModuleList | nn.Sequential)
        if listed and not container and any(True for _ in module.children()):
            inside: dict[int, int] = {}
            for part in module.modules():
                for p in part._parameters.values():
                    if p is not None:
                        inside[id(p)] = inside.get(id(p), 0) + 1
            if inside and all(owners[key] == n for key, n in inside.items()):
                found.append(module)
                return
        for child in module.children():
            visit(child, container)

    visit(model, False)
    return found


def own_device(name: str, ranks: Ranks) -> str:
    """The recipe's `device` as this rank reads it: cuda:N is the GPU of its own, not number N."""
    return "cuda" if ranks.size > 1 and name.startswith("cuda:") else name


def describe(ranks: Ranks, model: nn.Module, recipe: Any) -> str:
    """One sentence for the log: how the run is spread, and how curvature is measured."""
    n, size = recipe.batch_size, ranks.size
    if size == 1:
        if recipe.parallel is None:
            return ""
        return f"one process: parallel {recipe.parallel} asks for several, started by torchrun"
    rows = sorted({(r + 1) * n // size - r * n // size for r in range(size)})
    each = " or ".join(map(str, rows))
    whole = "on gathered copies of the sharded parameters, " if is_sharded(model) else ""
    return (
        f"{size} ranks, {ranks.parallel}: {each} of {n} rows each; curvature "
        f"{whole}all-reduced over the ranks"
    )
