"""Outputs: none destroys an input or a file of another kind, and none costs the others."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from homotopy_cli.cli import writing
from homotopy_cli.cli.app import run
from homotopy_cli.cli.writing import write_text
from homotopy_cli.errors import HomotopyError

SAMPLE = Path(__file__).parents[2] / "sample_runs" / "unstable" / "run.h5"
MODEL = "import torch.nn as nn\ndef build():\n    return nn.Linear(3, 2)\n"
RECIPE = """\
model: model.py:build
data: {name: npz, path: data.npz}
loss: cross_entropy
optimizer: {name: sgd, lr: 0.1}
curvature: {freq: 0}
scheduler: constant
steps: 2
"""
PROBE = [
    "probe",
    "sd.pt",
    "--model",
    "model.py:build",
    "--batch",
    "b.pt",
    "--loss",
    "cross_entropy",
]
QUICK = [*PROBE, "--quick", "--quiet"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with inputs of every kind, which is the current one."""
    torch.manual_seed(0)
    x, y = torch.randn(8, 3), torch.randint(0, 2, (8,))
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "sd.pt")
    torch.save((x, y), tmp_path / "b.pt")
    torch.save((x, y, x), tmp_path / "other.pt")
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=y.numpy())
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "r.yaml").write_text(RECIPE)
    shutil.copy(SAMPLE, tmp_path / "run.h5")
    shutil.copy(SAMPLE, tmp_path / "old.h5")
    os.link(tmp_path / "run.h5", tmp_path / "hard")
    (tmp_path / "soft").symlink_to("sd.pt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


REFUSED = {
    "the log": (["report", "run.h5", "--json", "run.h5", "--out", "z.html"], "is the log itself"),
    "a link to it": (["report", "run.h5", "--markdown", "hard"], "is the log itself"),
    "its journal": (["report", "run.h5", "--json", "run.h5.journal"], "is the journal of run.h5"),
    "the baseline": (
        ["report", "run.h5", "--baseline", "old.h5", "--junit", "./old.h5"],
        "is the log of --baseline",
    ),
    "another kind": (["report", "run.h5", "--out", "sd.pt"], "is no HTML, so it is not replaced"),
    "the page twice": (["report", "run.h5", "--json", "run.html"], "--out and --json both write"),
    "a folder": (["report", "run.h5", "--json", "folder"], "is a folder, not a file"),
    "no folder": (["report", "run.h5", "--json", "no/m.json"], "no/m.json: its folder does not"),
    "the checkpoint": ([*PROBE, "--json", "sd.pt"], "is the checkpoint, which"),
    "a link to the checkpoint": ([*PROBE, "--json", "soft"], "is the checkpoint, which"),
    "the other checkpoint": (
        [*PROBE, "--compare", "other.pt", "--html", "other.pt"],
        "is the checkpoint of --compare",
    ),
    "the batch": ([*PROBE, "--html", "b.pt"], "is a batch, which"),
    "another batch": ([*PROBE, "--html", "other.pt"], "is there already and is no HTML"),
    "the model": ([*PROBE, "--json", "model.py"], "is the file of --model"),
    "the recipe": (["probe", "sd.pt", "--recipe", "r.yaml", "--json", "r.yaml"], "is the recipe"),
    "the data": (
        ["probe", "sd.pt", "--recipe", "r.yaml", "--json", "data.npz"],
        "is the recipe's data",
    ),
    "a folder that is read": (
        ["probe", "folder", "--json", "folder/config.json"],
        "is there already, in the checkpoint",
    ),
    "an output twice": ([*PROBE, "--json", "a.json", "--html", "./a.json"], "both write a.json"),
    "a folder as page": ([*PROBE, "--json", "ok.json", "--html", "folder"], "is a folder"),
    "a run that is its data": (["train", "r.yaml", "--out", "data.npz"], "is the recipe's data"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_any_work_with_everything_as_it_was(here, capsys, name):
    argv, words = REFUSED[name]
    before = contents(here)
    assert run(argv) == 2
    said = capsys.readouterr()
    error, hint = said.err.splitlines()
    assert error.startswith("error: ") and words in error and hint.startswith("hint:  ")
    assert said.out == "" and contents(here) == before


def test_a_file_of_zeros_is_no_text_whatever_its_name(here, capsys):
    (here / "weights").write_bytes(b"\x01\x00\x02")
    assert run(["report", "run.h5", "--json", "weights"]) == 2
    assert "is there already and is no JSON" in capsys.readouterr().err


def test_an_output_replaces_one_of_its_own_kind_and_devices_take_all(here, capsys):
    (here / "step_summary").write_text("")  # what CI gives has no suffix
    argv = ["report", "run.h5", "--json", "m.json", "--markdown", "step_summary"]
    assert run(argv) == 0 and run(argv) == 0
    assert json.loads((here / "m.json").read_text())["runs"]
    assert (here / "step_summary").read_text().startswith("#")
    assert run([*QUICK, "--json", "/dev/null", "--html", "/dev/null"]) == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_measurement_is_said_and_kept_where_it_can_be(here, capsys):
    options = ["--json", "/dev/full", "--html", "p.html", "--fail-on", "lambda_max > 0"]
    assert run([*QUICK, *options]) == 2
    said = capsys.readouterr()
    assert "Sharpness λ_max" in said.out and (here / "p.html").stat().st_size > 0
    assert "gate fired: lambda_max > 0" in said.err
    assert "error: /dev/full: cannot be written: No space left on device" in said.err
    assert run([*PROBE, "--dry-run", "--json", "/dev/full"]) == 2
    assert "nothing was measured" in capsys.readouterr().out


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_report_writes_what_it_can(here, capsys):
    assert run(["report", "run.h5", "--markdown", "/dev/full", "--json", "m.json"]) == 2
    assert json.loads((here / "m.json").read_text())["runs"] and (here / "run.html").exists()
    assert "error: /dev/full: cannot be written" in capsys.readouterr().err


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "old.html").write_text("old")

    def full(fd, mode):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.os, "chmod", full)
    for name in ("old.html", "new.html"):
        with pytest.raises(HomotopyError, match="No space left on device"):
            write_text(tmp_path / name, "new")
    assert contents(tmp_path) == {"old.html": b"old"}


def test_a_link_stays_a_link_and_a_mode_stays(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "real.json").chmod(0o640)
    (tmp_path / "link.json").symlink_to("real.json")
    write_text(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"
    assert (tmp_path / "real.json").stat().st_mode & 0o777 == 0o640
