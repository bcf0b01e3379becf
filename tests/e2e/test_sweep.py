"""`homotopy train --sweep --seeds` as a user runs it: logs, table, page; stop and go on."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from commands import bytes_of, homotopy, is_two_lines

from homotopy_cli.runlog.reader import read_log

RECIPE = """
model: {name: quadratic, dim: 4, condition: 10}
data: {name: quadratic}
loss: output
batch_size: 64
optimizer: {name: sgd, lr: 0.01}
scheduler: constant
curvature: {freq: 0}
steps: 6
seed: 1
profiles:
  fast: {optimizer.lr: 0.1}
  hot: {optimizer.lr: 1e30}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bowl.yaml").write_text(RECIPE)
    return tmp_path


def rows(folder):
    with open(folder / "sweep.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_grid_leaves_a_log_each_one_table_and_one_page(folder):
    grid = ("--sweep", "optimizer.lr=0.01,0.05,0.1", "--seeds", "2", "--jobs", "2")
    done = homotopy("train", "bowl.yaml", *grid, "--out", "grid", cwd=folder)
    assert done.code == 0, done.err
    made = rows(folder / "grid")
    assert [(r["optimizer.lr"], r["seed"]) for r in made] == [
        (lr, seed) for lr in ("0.01", "0.05", "0.1") for seed in ("1", "2")
    ]
    assert {r["status"] for r in made} == {"finished"}
    losses = [float(r["final_loss"]) for r in made]
    for row, loss in zip(made, losses, strict=True):
        log = read_log(folder / "grid" / f"lr={row['optimizer.lr']}_seed={row['seed']}.h5")
        assert log.steps["loss"][-1] == loss and log.steps["lr"][0] == float(row["optimizer.lr"])
    assert "Loss against learning rate" in (folder / "grid/sweep.html").read_text(encoding="utf-8")
    assert "0.05" in done.out and "grid/sweep.html" in done.out
    before = bytes_of(folder)
    again = homotopy("train", "bowl.yaml", *grid, "--out", "grid", cwd=folder)
    assert again.code == 0 and "6 of them there already" in again.err
    assert bytes_of(folder) == before  # nothing ran again; the page has the same bytes


@pytest.mark.parametrize(("blocked", "written"), [("csv", "html"), ("html", "csv")])
def test_one_output_that_cannot_be_written_costs_no_other(folder, blocked, written):
    (folder / "g" / f"sweep.{blocked}" / "taken").mkdir(parents=True)
    done = homotopy("train", "bowl.yaml", "--seeds", "2", "--out", "g", cwd=folder)
    assert done.code == 2 and f"sweep.{blocked}: cannot be written" in done.err
    assert (folder / "g" / f"sweep.{written}").read_text(encoding="utf-8")
    assert "held-out loss, median" in " ".join(done.out.split()) and "report  " not in done.out


def test_a_task_s_own_metric_is_in_the_table(folder):
    """Digits: accuracy on held-out images, beside the loss."""
    grid = ("--sweep", "optimizer.lr=0.01,0.1", "--profile", "small", "--set", "steps=20")
    done = homotopy("train", "digits", *grid, "--out", "grid", cwd=folder)
    assert done.code == 0, done.err
    for row in rows(folder / "grid"):
        log = read_log(folder / "grid" / f"lr={row['optimizer.lr']}.h5")
        assert float(row["val_metric"]) == log.evals["eval_metric"][-1]
        assert 0.0 < float(row["val_metric"]) <= 1.0
    assert "held-out accuracy, median" in " ".join(done.out.split())


def test_profiles_and_a_run_that_diverges_are_results(folder):
    done = homotopy("train", "bowl.yaml", "--sweep", "profile=fast,hot", "--out", "g", cwd=folder)
    assert done.code == 0, done.err
    assert [r["status"] for r in rows(folder / "g")] == ["finished", "diverged"]


def test_another_recipe_in_the_folder_is_not_mixed_in(folder):
    sweep = ("train", "bowl.yaml", "--seeds", "1", "--out", "g")
    assert homotopy(*sweep, cwd=folder).code == 0
    before = bytes_of(folder)
    other = homotopy(*sweep, "--set", "steps=7", cwd=folder)
    assert is_two_lines(other) and "of another recipe (they differ in steps)" in other.err
    assert bytes_of(folder) == before
    assert homotopy(*sweep, "--set", "steps=7", "--overwrite", cwd=folder).code == 0
    assert rows(folder / "g")[0]["steps"] == "7"


def test_every_cell_is_checked_before_the_first_runs(folder):
    before = bytes_of(folder)
    bad = homotopy("train", "bowl.yaml", "--sweep", "steps=5,x", "--out", "g", cwd=folder)
    assert is_two_lines(bad) and "steps" in bad.err
    check = homotopy("train", "bowl.yaml", "--seeds", "4", "--check", cwd=folder)
    assert check.code == 0 and "4 valid recipes, of which the first was tried" in check.out
    assert bytes_of(folder) == before


def test_a_first_run_that_cannot_be_ends_the_sweep(folder):
    before = bytes_of(folder)
    sweep = ("train", "bowl.yaml", "--set", "data=gone.npz", "--seeds", "4")
    check = homotopy(*sweep, "--check", cwd=folder)
    assert check.code == 1 and "gone.npz: no such data file" in check.err
    (folder / "text.npz").write_text("no arrays")
    before = bytes_of(folder)
    sweep = ("train", "bowl.yaml", "--set", "data=text.npz", "--seeds", "4")
    done = homotopy(*sweep, "--out", "g", cwd=folder)
    assert done.code == 2 and done.err.count("text.npz: is not an .npz file") == 1
    assert bytes_of(folder) == before and not (folder / "g").exists()
    blocked = homotopy("train", "bowl.yaml", "--seeds", "2", "--out", "bowl.yaml/g", cwd=folder)
    assert is_two_lines(blocked) and "cannot be made" in blocked.err


def test_the_command_that_is_named_continues_the_run(folder):
    """With the profile and the settings that were typed: without them it would be another run."""
    typed = ("--profile", "fast", "--set", "steps=200000", "--set", "max_seconds=1")
    first = homotopy("train", "bowl.yaml", *typed, "--out", "run.h5", cwd=folder)
    (named,) = (line for line in first.out.splitlines() if line.startswith("next "))
    _, program, *words = shlex.split(named)
    assert program == "homotopy" and "--resume" in words
    made = len(read_log(folder / "run.h5").step)
    again = homotopy(*words, cwd=folder)
    assert again.code == 0, again.err
    assert 0 < made < len(read_log(folder / "run.h5").step) < 200000


def test_ctrl_c_stops_and_the_same_command_goes_on(folder):
    long = ("--set", "steps=60000", "--set", "checkpoint_every=100", "--seeds", "2", "--out", "g")
    command = [sys.executable, "-m", "homotopy_cli", "train", "bowl.yaml", *long]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    started = time.monotonic()
    while not (folder / "g/seed=1.h5").exists() and time.monotonic() - started < 120:
        time.sleep(0.1)
    while not len(read_log(folder / "g/seed=1.h5").step) and time.monotonic() - started < 120:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and b"the same command goes on" in err
    assert b"unfinished" in out  # its losses are those of fewer steps
    stopped = read_log(folder / "g/seed=1.h5")
    assert stopped.status == "interrupted" and 0 < len(stopped.step) < 60000
    assert not (folder / "g/seed=2.h5").exists()


def test_a_run_in_a_worker_is_the_run_of_a_process_of_its_own(folder):
    """The second run of a worker against the same run alone: same rows, same weights."""
    grid = ("--sweep", "profile=hot,fast", "--out", "g")
    assert homotopy("train", "bowl.yaml", *grid, cwd=folder).code == 0
    alone = homotopy("train", "bowl.yaml", "--profile", "fast", "--out", "a/run.h5", cwd=folder)
    assert alone.code == 0, alone.err
    one, other = read_log(folder / "g/profile=fast.h5"), read_log(folder / "a/run.h5")
    for name in ("loss", "lr", "grad_norm", "update_norm"):
        np.testing.assert_array_equal(one.steps[name], other.steps[name])
    weights = [
        torch.load(folder / p, weights_only=True)["model"]
        for p in ("g/profile=fast.pt", "a/run.pt")
    ]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[1])
    assert "fast" in str(one.provenance["argv"])


def test_a_worker_that_dies_loses_its_run_and_no_other(tmp_path):
    (tmp_path / "model.py").write_text(
        "import os\nimport torch\n"
        "def build(dies=False):\n"
        "    if dies:\n        os.kill(os.getpid(), 9)\n"
        "    return torch.nn.Linear(2, 1)\n"
        "def loss(model, batch):\n    return model(batch[0]).square().mean()\n"
    )
    np.savez(tmp_path / "data.npz", x=np.ones((8, 2), np.float32), y=np.ones((8, 1), np.float32))
    (tmp_path / "r.yaml").write_text(
        "model: {name: 'model.py:build', dies: false}\nloss: model.py:loss\ndata: data.npz\n"
        "optimizer: {name: sgd, lr: 0.1}\nscheduler: constant\ncurvature: {freq: 0}\n"
        "batch_size: 4\nsteps: 2\n"
    )
    grid = ("--sweep", "model.dies=true,false", "--out", "g")
    done = homotopy("train", "r.yaml", *grid, cwd=tmp_path)
    assert done.code == 9, done.err
    assert "dies=true: exit -9" in done.err and "ended without an answer" in done.err
    assert [r["status"] for r in rows(tmp_path / "g")] == ["finished"]


def test_a_smaller_sweep_keeps_the_runs_of_the_larger_one(folder):
    sweep = ("train", "bowl.yaml", "--out", "g", "--sweep")
    assert homotopy(*sweep, "optimizer.lr=0.01,0.05", "--seeds", "2", cwd=folder).code == 0
    before = {(r["optimizer.lr"], r["seed"]): r["final_loss"] for r in rows(folder / "g")}
    assert len(before) == 4
    smaller = homotopy(*sweep, "optimizer.lr=0.05,0.1", cwd=folder)  # the recipe's own seed, 1
    assert smaller.code == 0 and "left out" not in smaller.err
    after = {(r["optimizer.lr"], r["seed"]): r["final_loss"] for r in rows(folder / "g")}
    assert after.keys() == before.keys() | {("0.1", "1")}  # lr=0.05 and lr=0.05_seed=1 are one run
    assert {key: after[key] for key in before} == before
    page = (folder / "g/sweep.html").read_text(encoding="utf-8")
    assert "g: 5 runs" in page and "lr=0.01_seed=2" in page
    other = homotopy(*sweep, "batch_size=32,16", cwd=folder)
    assert other.code == 0
    assert (
        "note: 6 other logs in g left out, of another grid or recipe: lr=0.01_seed=1" in other.err
    )
    assert "homotopy report g compares all" in other.err and len(rows(folder / "g")) == 2

    compared = homotopy("report", "g", "--json", "m.json", cwd=folder)
    assert compared.code == 0, compared.err
    assert len(json.loads((folder / "m.json").read_text())["runs"]) == 8
    assert "page: g/compare.html" in compared.out and (folder / "g/compare.html").exists()
    assert "g: 2 runs" in (folder / "g/sweep.html").read_text(encoding="utf-8")


def test_resume_beside_a_sweep_meets_the_runs_that_are_there(folder):
    sweep = ("train", "bowl.yaml", "--out", "g", "--sweep", "optimizer.lr=0.01,0.05")
    assert homotopy(*sweep, "--seeds", "2", cwd=folder).code == 0
    before = bytes_of(folder)
    refused = homotopy(*sweep, "--resume", cwd=folder)
    assert is_two_lines(refused) and bytes_of(folder) == before
    assert "none of these 2 runs is in g, which holds lr=0.01_seed=1, " in refused.err
    done = homotopy(*sweep, "--seeds", "2", "--resume", cwd=folder)
    assert done.code == 0 and "4 of them there already" in done.err
    both = homotopy(*sweep, "--resume", "--overwrite", cwd=folder)
    assert is_two_lines(both) and "contradict each other" in both.err
