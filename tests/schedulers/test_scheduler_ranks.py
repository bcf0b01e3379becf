"""Two real gloo ranks with different batches: the same learning rate on both, to the bit."""

import gc

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from setups import batches, network
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from homotopy_cli.schedulers.homotopy import HomotopyLR
from homotopy_cli.schedulers.ranks import mean_over_ranks, world_size

EMPTY = 1  # a step of the burst, which probes


def worker(rank, folder, signal, broken_at):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(train(rank, signal, broken_at), f"{folder}/rank{rank}.pt")
    dist.barrier()
    gc.collect()  # the wrapped model holds the group, whose threads must end before Python does
    dist.destroy_process_group()


def train(rank, signal, broken_at):
    model = DistributedDataParallel(network(dropout=0.0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    criterion = nn.CrossEntropyLoss()
    scheduler = HomotopyLR(optimizer, model, criterion, total_steps=400, signal=signal)
    rates, failures, probes = [], [], []
    for step, (x, y) in enumerate(batches(16, seed=10 + rank)):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        # One rank's probe fails: both keep the last ceiling.
        broken = rank == 1 and step == broken_at
        probed = torch.full_like(x, torch.nan) if broken else x
        # One rank's norm is not finite: neither probes.
        coefficient = 0.0 if rank == 0 and step == EMPTY else 1.0
        found = scheduler.update_curvature(
            probed, y, loss=1e3 if step == 12 + rank else loss.item(), clip_coef=coefficient
        )
        probes.append(found is not None)
        rates.append(optimizer.param_groups[0]["lr"])
        failures.append(scheduler.n_failed_probes)
        optimizer.step()
        scheduler.step()
    return {"rates": rates, "failures": failures, "probes": probes}


@pytest.mark.distributed
@pytest.mark.parametrize(("signal", "broken_at"), [("auto", 2), ("trust_ratio", 4)])
def test_two_ranks_use_the_same_rate(tmp_path, signal, broken_at):
    mp.spawn(worker, args=(str(tmp_path), signal, broken_at), nprocs=2)
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    assert found[0]["rates"] == found[1]["rates"]
    assert max(found[0]["rates"]) < 0.5
    assert found[0]["failures"] == found[1]["failures"]
    assert found[0]["probes"] == found[1]["probes"]
    assert signal == "trust_ratio" or not found[0]["probes"][EMPTY]
    assert found[0]["failures"][broken_at - 1 : broken_at + 2] == [0, 1, 1]


def test_without_a_process_group_there_is_one_rank():
    assert world_size() == 1
    assert mean_over_ranks([1.5, 2.5]) == [1.5, 2.5]
