"""What is said where processes were started wrongly, or where a run's shards are missing."""

import pytest
import torch

from homotopy_cli.cli import ranks as cli_ranks
from homotopy_cli.errors import CheckpointError, HomotopyError
from homotopy_cli.problems.checkpoint import read_checkpoint
from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training import distributed, saving
from homotopy_cli.training.checkpoint import save_checkpoint
from homotopy_cli.training.loop import train
from homotopy_cli.training.ranks import SOLO

NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_one_process_asks_nobody():
    with distributed.process_group(None) as ranks:
        assert ranks is SOLO
    assert not torch.distributed.is_initialized()


def test_a_launcher_that_set_half_of_it_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(HomotopyError) as caught:
        distributed.n_ranks()
    assert caught.value.message == (
        "WORLD_SIZE is 2, but LOCAL_RANK, MASTER_ADDR, MASTER_PORT are not set"
    )
    assert caught.value.hint.startswith("torchrun --nproc-per-node")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(HomotopyError, match="WORLD_SIZE is 'two', not a number of processes"):
        distributed.n_ranks()


def test_a_rank_without_a_gpu_of_its_own_is_told_how_many_there_are(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "99")
    with pytest.raises(HomotopyError) as caught:
        distributed._own_gpu()
    there = torch.cuda.device_count()
    assert caught.value.message == (
        f"local rank 99 has no GPU of its own: this machine has {there}"
    )
    assert "--set device=cpu" in caught.value.hint


def test_every_rank_takes_its_own_gpu():
    class Two:
        size = 2

    assert distributed.own_device("cuda:0", Two()) == "cuda"
    assert distributed.own_device("cuda:1", SOLO) == "cuda:1"
    assert distributed.own_device("cpu", Two()) == "cpu"


def test_what_is_one_process_s_work_is_refused_by_rank_0_alone(monkeypatch):
    monkeypatch.setattr(cli_ranks, "WAIT", 0.0)
    monkeypatch.setenv("WORLD_SIZE", "4")

    def refused():
        return cli_ranks.alike(lambda: cli_ranks.refuse_launcher("a sweep", "without torchrun"))

    monkeypatch.setenv("RANK", "0")
    with pytest.raises(HomotopyError) as caught:
        refused()
    assert caught.value.message == (
        "a sweep runs in one process, and a launcher started 4 (WORLD_SIZE)"
    )
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(HomotopyError) as caught:
        refused()
    assert (caught.value.message, caught.value.exit_code) == ("", 2)


def test_a_recipe_for_several_processes_trains_in_one_and_says_so(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "model: {name: quadratic, dim: 4}\ndata: {name: quadratic}\nloss: output\n"
        "optimizer: {name: sgd, lr: 0.01}\nscheduler: constant\nsteps: 2\nparallel: fsdp\n"
    )
    train(load_recipe(tmp_path / "r.yaml"), tmp_path / "run.h5")
    (event,) = [e for e in read_log(tmp_path / "run.h5").events if e.code == "PARALLEL"]
    assert event.message == "one process: parallel fsdp asks for several, started by torchrun"


def test_a_folder_of_shards_that_is_gone_is_named(tmp_path):
    head = {"step": 3, "model": {}, "optimizer": {}, "scheduler": {}, "rng": {}, "recipe": "{}"}
    save_checkpoint(tmp_path / "run.pt", {**head, "sharded": "run-3.dcp"})
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "run.pt")
    assert "its weights are in the folder run-3.dcp, which is not beside it" in str(caught.value)
    assert "copy run-3.dcp there" in caught.value.hint
    with pytest.raises(CheckpointError, match=r"run-3\.dcp: the shards of the checkpoint are not"):
        saving._read_shards(None, tmp_path / "run-3.dcp", head)


def test_the_blocks_of_a_model_are_its_repeated_parts():
    class Shared(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layers = [torch.nn.Sequential(torch.nn.Linear(2, 2)) for _ in range(2)]
            self.blocks = torch.nn.ModuleList(Wrapped(layer) for layer in layers)
            self.head = torch.nn.Linear(2, 2)
            self.head.weight = layers[1][0].weight

    class Wrapped(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

    model = Shared()
    assert distributed.blocks(model) == [model.blocks[0]]  # the other's weight is the head's too
    assert distributed.blocks(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh())) == []
