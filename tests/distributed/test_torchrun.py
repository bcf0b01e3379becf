"""torchrun -m homotopy_cli train: signals, a killed rank, errors said once, exit codes, files."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from distributed_launch import HERE, start

from homotopy_cli.runlog.reader import read_log

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "r.yaml").write_text(
        "model: {name: quadratic, dim: 4}\n"
        "data: {name: quadratic}\n"
        "loss: output\n"
        "optimizer: {name: sgd, lr: 0.01}\n"
        "scheduler: constant\n"
        "curvature: {freq: 0}\n"
        "steps: 1000000\nbatch_size: 4\nthreads: 1\nout: run.h5\ncheckpoint_every: 100\n"
    )
    return folder / "r.yaml"


def begin(recipe, *options):
    """torchrun with two ranks, in the background."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(HERE.parent.parent),
    }
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    return subprocess.Popen(
        [*torchrun, "--nproc-per-node", "2", "-m", "homotopy_cli", "train", str(recipe), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=recipe.parent,
        start_new_session=True,
    )


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the run never came so far"
        time.sleep(0.05)


def ranks_of(process) -> dict[int, int]:
    """rank -> process id, from the environment that torchrun gave its children."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) != process.pid:
                continue
            for item in (entry / "environ").read_bytes().split(b"\0"):
                if item.startswith(b"RANK="):
                    found[int(item[5:])] = int(entry.name)
        except (OSError, ValueError):
            continue
    return found


def ours(text):
    """The lines of the command itself, without torchrun's report."""
    return [line for line in text.splitlines() if line.startswith(("error:", "hint:"))]


@pytest.fixture(scope="module")
def terminated(recipe):
    """SIGTERM to torchrun once a checkpoint is there; then the log as it was left."""
    process = begin(recipe, "--quiet")
    wait_for((recipe.parent / "run.pt").exists)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err, read_log(recipe.parent / "run.h5")


def test_sigterm_ends_both_ranks_after_the_same_step_with_everything_saved(terminated, recipe):
    code, out, err, log = terminated
    assert code != 0 and not ours(err)
    assert log.attrs["status"] == "interrupted"
    assert [e.code for e in log.events].count("INTERRUPTED") == 1
    assert log.step.tolist() == list(range(len(log.step)))
    assert out.count("SIGTERM: ") == 1  # the summary of rank 0 alone
    again = f"next        torchrun --nproc-per-node 2 -m homotopy_cli train {recipe} --resume"
    assert again in out.splitlines()


def test_what_was_interrupted_is_resumed_by_the_same_command(terminated, recipe):
    """And a rank that is killed takes the other with it, within seconds, in one message."""
    before = len(terminated[3].step)
    process = begin(recipe, "--quiet", "--resume")
    wait_for(lambda: read_log(recipe.parent / "run.h5").attrs["attempts"] > 1)
    pids = ranks_of(process)
    assert sorted(pids) == [0, 1]
    time.sleep(1.0)
    os.kill(pids[1], signal.SIGKILL)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    said = ours(err)
    assert len(said) == 2, err
    assert "another rank is gone, so rank 0 ends too" in said[0]
    assert "--resume" in said[1]
    log = read_log(recipe.parent / "run.h5")
    assert log.attrs["status"] == "interrupted"
    assert [e.message for e in log.events if e.code == "RANK_FAILED"]
    assert len(log.step) > before


def test_a_command_for_one_process_is_refused_once(recipe):
    done = start(2, "-m", "homotopy_cli", "probe", "run.pt", cwd=recipe.parent)
    assert ours(done.stderr) == [
        "error: a probe runs in one process, and a launcher started 2 (WORLD_SIZE)",
        "hint:  homotopy probe run.pt without torchrun",
    ]
