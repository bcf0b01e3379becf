"""run.pt: atomic at every write, plain for weights_only, exact for the generators."""

import os
import random
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from homotopy_cli.errors import CheckpointError
from homotopy_cli.training.checkpoint import (
    load_checkpoint,
    plain,
    restore_rng,
    rng_state,
    save_checkpoint,
)


def content(step=3, **more):
    return {
        "step": step,
        "model": {"w": torch.arange(4.0)},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.95)}]},
        "scheduler": {"last_epoch": step},
        "rng": rng_state(),
        "recipe": "{}",
        **more,
    }


def test_what_is_saved_comes_back_through_weights_only(tmp_path):
    path = tmp_path / "run.pt"
    save_checkpoint(path, content())
    back = load_checkpoint(path)
    assert back["format"] == "homotopy-checkpoint" and back["version"] == 1
    assert back["step"] == 3
    assert torch.equal(back["model"]["w"], torch.arange(4.0))
    assert back["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.95)
    assert os.listdir(tmp_path) == ["run.pt"]


def test_the_same_content_gives_the_same_bytes(tmp_path):
    fixed = content()
    save_checkpoint(tmp_path / "a.pt", fixed)
    save_checkpoint(tmp_path / "b.pt", fixed)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_generators_repeat_their_numbers_after_restore(tmp_path):
    random.gauss(0, 1)  # leaves a cached second value behind, which must survive too
    save_checkpoint(tmp_path / "run.pt", content())
    first = (random.gauss(0, 1), random.random(), np.random.normal(), torch.rand(3).tolist())
    restore_rng(load_checkpoint(tmp_path / "run.pt")["rng"])
    again = (random.gauss(0, 1), random.random(), np.random.normal(), torch.rand(3).tolist())
    assert first == again


def test_plain_turns_numpy_into_tensors_and_numbers():
    value = plain({"a": np.float64(2.5), "b": np.arange(3), "c": {1, 2}, "d": torch.device("cpu")})
    assert type(value["a"]) is float and value["a"] == 2.5
    assert torch.equal(value["b"], torch.arange(3))
    assert sorted(value["c"]) == [1, 2] and value["d"] == "cpu"


def test_plain_refuses_objects_and_names_the_place():
    with pytest.raises(TypeError, match=r"checkpoint\.scheduler\.model: Linear cannot be kept"):
        plain({"scheduler": {"model": torch.nn.Linear(2, 2)}})


@pytest.mark.parametrize("size", [0, 10, 200])
def test_a_truncated_file_is_a_clear_error(tmp_path, size):
    path = tmp_path / "run.pt"
    save_checkpoint(path, content())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"run\.pt: cannot be read as a checkpoint"):
        load_checkpoint(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"run\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "run.pt")


def test_a_foreign_file_is_refused(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="is not a checkpoint of homotopy train"):
        load_checkpoint(tmp_path / "weights.pt")


def test_a_newer_version_says_how_to_upgrade(tmp_path):
    torch.save({"format": "homotopy-checkpoint", "version": 2}, tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match="checkpoint version 2") as caught:
        load_checkpoint(tmp_path / "run.pt")
    assert "--upgrade" in caught.value.hint


def test_missing_entries_are_listed(tmp_path):
    torch.save({"format": "homotopy-checkpoint", "version": 1, "step": 1}, tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match="lacks model, optimizer, scheduler, rng, recipe"):
        load_checkpoint(tmp_path / "run.pt")


def test_a_failed_write_leaves_the_former_checkpoint_and_no_rest(tmp_path):
    """RLIMIT_FSIZE makes the kernel refuse the write, as a full disk does."""
    script = textwrap.dedent(
        f"""
        import resource, signal, sys
        from pathlib import Path
        import torch
        from homotopy_cli.errors import CheckpointError
        from homotopy_cli.training.checkpoint import save_checkpoint
        path = Path({str(tmp_path / "run.pt")!r})
        base = {{"step": 1, "optimizer": {{}}, "scheduler": {{}}, "rng": {{}}, "recipe": ""}}
        save_checkpoint(path, {{**base, "model": {{"w": torch.zeros(4)}}}})
        before = path.read_bytes()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save_checkpoint(path, {{**base, "model": {{"w": torch.zeros(1_000_000)}}}})
        except CheckpointError as error:
            assert "could not be written" in str(error), error
            assert "the checkpoint before it is intact" in str(error), error
            assert path.read_bytes() == before
            print("refused")
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "refused", done.stderr
    assert os.listdir(tmp_path) == ["run.pt"]


def test_a_kill_during_the_write_leaves_the_former_checkpoint(tmp_path):
    """The process dies (os._exit) inside torch.save, before the rename."""
    script = textwrap.dedent(
        f"""
        import os
        from pathlib import Path
        import torch
        from homotopy_cli.training import checkpoint
        path = Path({str(tmp_path / "run.pt")!r})
        base = {{"step": 1, "optimizer": {{}}, "scheduler": {{}}, "rng": {{}}, "recipe": ""}}
        checkpoint.save_checkpoint(path, {{**base, "model": {{"w": torch.ones(4)}}}})
        os.fsync = lambda descriptor: os._exit(9)
        checkpoint.save_checkpoint(path, {{**base, "model": {{"w": torch.zeros(4)}}}})
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert torch.equal(load_checkpoint(tmp_path / "run.pt")["model"]["w"], torch.ones(4))
