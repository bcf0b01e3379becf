"""torch.distributed.checkpoint folders, written by the real library, read in one process."""

import pickle

import pytest
import torch
import torch.distributed.checkpoint as dcp
from foreign_checkpoints import Evil, adam_state, trained

from homotopy_cli.errors import CheckpointError
from homotopy_cli.problems.checkpoint import load_into, read_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture
def folder(tmp_path):
    adam = adam_state()
    content = {"app": {"model": trained().state_dict(), "optim": adam}, "step": 7}
    dcp.save(content, checkpoint_id=tmp_path / "dcp", no_dist=True)
    return tmp_path / "dcp"


def test_the_nest_is_read_back(folder):
    read = read_checkpoint(folder)
    assert read.kind == "dcp" and read.entry == "app.model"
    wanted = trained().state_dict()
    assert read.state.keys() == wanted.keys()
    assert all(torch.equal(read.state[name], value) for name, value in wanted.items())
    model = trained()
    with torch.no_grad():
        model[0].weight.zero_()
    load_into(model, read)
    assert torch.equal(model[0].weight, wanted["0.weight"])


def test_pieces_of_several_ranks_become_one_tensor(tmp_path, two_ranks):
    read = read_checkpoint(two_ranks)
    assert torch.equal(read.state["weight"], torch.arange(15.0).view(5, 3))
    assert torch.equal(read.state["bias"], torch.arange(5.0))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """A folder that two gloo processes wrote, each its rows."""
    import subprocess
    import sys
    import textwrap

    root = tmp_path_factory.mktemp("two")
    script = root / "save.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import gc
            import torch
            import torch.distributed as dist
            import torch.distributed.checkpoint as dcp
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.tensor import Shard, distribute_tensor

            mesh = init_device_mesh("cpu", (2,))
            shard = lambda t: distribute_tensor(t, mesh, [Shard(0)])
            weight, bias = torch.arange(15.0).view(5, 3), torch.arange(5.0)
            state = {{"weight": shard(weight), "bias": shard(bias)}}
            dcp.save({{"model": state}}, checkpoint_id={str(root / "dcp")!r})
            dist.barrier()
            del mesh, state, weight, bias
            gc.collect()
            dist.destroy_process_group()
            """
        )
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*command, script], check=True, capture_output=True, timeout=240)
    return root / "dcp"


def test_a_missing_file_is_named(folder):
    name = next(folder.glob("*.distcp"))
    name.unlink()
    with pytest.raises(CheckpointError, match=f"1 of its files are missing: {name.name}"):
        read_checkpoint(folder)


def test_a_cut_file_is_truncated(folder):
    file = next(folder.glob("*.distcp"))
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[: size // 2])
    with pytest.raises(CheckpointError, match=rf"truncated: {size // 2} bytes there, \d+ promised"):
        read_checkpoint(folder)


def test_without_metadata_it_is_said(folder):
    (folder / ".metadata").unlink()
    with pytest.raises(CheckpointError, match=r"folder without its \.metadata"):
        read_checkpoint(folder)


def test_hostile_metadata_does_not_run(folder, tmp_path):
    mark = tmp_path / "mark"
    evil = pickle.dumps(Evil(exec, f"open({str(mark)!r}, 'w')"))
    (folder / ".metadata").write_bytes(evil)
    with pytest.raises(CheckpointError, match=r"refused: the pickle calls builtins\.exec"):
        read_checkpoint(folder)
    assert not mark.exists()


def test_pieces_outside_the_folder_are_refused(folder):
    with open(folder / ".metadata", "rb") as file:
        metadata = pickle.load(file)
    for info in metadata.storage_data.values():
        info.relative_path = "../" + info.relative_path
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match="lies outside the folder"):
        read_checkpoint(folder)


def test_a_tensor_with_a_piece_missing_is_not_filled_up(two_ranks, tmp_path):
    import shutil

    folder = tmp_path / "cut"
    shutil.copytree(two_ranks, folder)
    with open(folder / ".metadata", "rb") as file:
        metadata = pickle.load(file)
    first = next(i for i in metadata.storage_data if i.fqn == "model.weight")
    del metadata.storage_data[first]
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match=r"model\.weight of shape \[5, 3\] is not whole"):
        read_checkpoint(folder)
