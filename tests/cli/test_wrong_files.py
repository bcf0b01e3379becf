"""Files that are not what was meant, outputs to stdout, options that exclude each other."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from homotopy_cli.cli.app import run

SAMPLE = Path(__file__).parents[2] / "sample_runs" / "unstable" / "run.h5"


def said(capsys, *argv: str) -> list[str]:
    """The lines on stderr of a command that must end with exit code 2."""
    assert run(list(argv)) == 2
    found = capsys.readouterr()
    assert found.out == ""
    return found.err.splitlines()


def test_an_array_file_in_place_of_a_recipe(tmp_path, capsys):
    (tmp_path / "data.npz").write_bytes(b"PK\x03\x04\x00\x81")
    error, hint = said(capsys, "train", str(tmp_path / "data.npz"))
    assert error.endswith("data.npz: is a binary file, no recipe")
    assert hint == "hint:  a recipe is YAML text; homotopy train --list shows some"


def test_a_file_that_may_not_be_read(tmp_path, capsys, monkeypatch):
    """Root may read everything, so the kernel's answer is given by hand."""

    def refused(self):
        raise PermissionError(13, "Permission denied")

    recipe = tmp_path / "a.yaml"
    recipe.write_text("steps: 1")
    recipe.chmod(0)
    monkeypatch.setattr(Path, "read_bytes", refused)
    error, hint = said(capsys, "train", str(recipe))
    assert error.endswith("a.yaml: cannot be read (Permission denied)")
    assert hint == "hint:  name a file that you may read"


def test_a_summary_goes_to_stdout_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE, "run.h5")
    assert run(["report", "run.h5", "--markdown", "-"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("#") and "page:" not in text and not Path("-").exists()
    assert run(["report", "run.h5", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"]


def test_two_outputs_do_not_share_stdout(tmp_path, capsys):
    error, hint = said(capsys, "report", str(SAMPLE), "--json", "-", "--markdown", "-")
    assert error == "error: --json - and --markdown -: stdout takes one of them"
    assert hint == "hint:  --markdown FILE"


def test_list_and_schema_are_commands_of_their_own(capsys):
    error, hint = said(capsys, "train", "--list", "--schema")
    assert error == "error: --list and --schema: each is a command of its own"
    assert hint == "hint:  --list"


@pytest.mark.parametrize("columns", [60, 200])
def test_the_list_fits_the_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run(["train", "--list"]) == 0
    listed = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert max(map(len, listed)) <= min(columns, 100)


def test_resuming_what_is_not_there_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["train", "quadratic", "--set", "steps=2", "--no-report", "--quiet", "--resume"]
    assert run([*argv, "--out", "a.h5"]) == 0
    assert "note: a.h5: no run to resume, so it starts at step 0" in capsys.readouterr().err
    assert run([*argv, "--out", "a.h5"]) == 0
    again = capsys.readouterr()
    assert again.err == "" and again.out.startswith("nothing to do: the run already has 2 steps")
    assert run([*argv, "--out", "a.h5", "--set", "steps=5"]) == 0
    assert capsys.readouterr().err == "note: a.h5: resuming at step 2 of 5\n"


def test_a_name_changed_by_set_says_how_to_replace_the_section(tmp_path, capsys):
    recipe = tmp_path / "a.yaml"
    recipe.write_text(
        "model: {name: mlp}\ndata: {name: digits}\noptimizer: {name: adamw, lr: 1e-3}\n"
        "scheduler: {name: homotopy, inner: {name: cosine}}\nsteps: 5\n"
    )
    error, hint, *_ = said(capsys, "train", str(recipe), "--set", "scheduler.name=constant")
    assert error.endswith("a.yaml:4: scheduler.inner: unknown key of constant")
    assert hint == "hint:  --set scheduler=constant replaces the whole section"
    wrong = ("--set", "scheduler.name=constant", "--set", "scheduler.iner=1")
    lines = said(capsys, "train", str(recipe), *wrong)
    assert any("--set scheduler.iner=1: unknown key of constant" in line for line in lines)


@pytest.mark.parametrize(
    ("content", "name", "words", "hint"),
    [
        (
            '{\n  "schema_version": "1.0",\n  "curvature": "hessian"}',
            "j.json",
            "the JSON of a probe, not a log",
            "homotopy probe CKPT --out FILE.h5 writes a log",
        ),
        (
            '{\n  "schema_version": "1.0",\n  "runs": []}',
            "m.json",
            "the JSON of a report, not a log",
            "give the run.h5 that it was made from",
        ),
        ("steps: 1", "r.yaml", "a recipe, not a log", "homotopy train {} makes one"),
        ("<!DOCTYPE html>", "p.html", "a page, not a log", "give the run.h5"),
        ("a,b", "t.csv", "not an HDF5 file (it starts with b'a,b')", "give a run.h5"),
    ],
)
def test_what_is_no_log_is_named(tmp_path, capsys, content, name, words, hint):
    path = tmp_path / name
    path.write_text(content)
    out = str(tmp_path / "z.html")
    error, advice = said(capsys, "report", str(path), "--out", out)
    assert error == f"error: {path}: {words}"
    assert advice.startswith(f"hint:  {hint.format(path)}")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_checkpoint_is_sent_to_probe(tmp_path, capsys, kind):
    path, state = tmp_path / "x.pt", {"weight": torch.zeros(3)}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    error, hint = said(capsys, "report", str(path))
    assert error == f"error: {path}: a checkpoint, not a log"
    assert hint == f"hint:  homotopy probe {path} reads it"
    np.savez(tmp_path / "a.npz", x=np.zeros(2))
    error, _ = said(capsys, "report", str(tmp_path / "a.npz"))
    assert error.endswith("a NumPy archive, not a log")


def test_an_absent_checkpoint_proposes_checkpoints_of_a_similar_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.pt", "model_12.pt", "model_12.txt", "model_12-batch.pt", "other.ckpt"):
        Path(name).touch()
    error, hint = said(capsys, "probe", "nosuch.pt", "--batch", "b.pt")
    assert error == f"error: nosuch.pt: no such file; looked in {tmp_path}"
    assert hint == "hint:  check the path"
    _, hint = said(capsys, "probe", "modl_12.safetensors", "--batch", "model_12-batch.pt")
    assert hint == "hint:  did you mean model_12.pt?"
    error, hint = said(capsys, "probe", "other.ckpt", "--compare", "oter.ckpt")
    assert error.startswith("error: oter.ckpt: no such file")
    assert hint == "hint:  did you mean other.ckpt?"


def test_a_folder_without_a_name_is_a_folder(capsys):
    error, _ = said(capsys, "report", ".")
    assert error == "error: .: is a folder, not a log"


@pytest.mark.parametrize("verb", [[], ["probe"], ["train"], ["report"]])
def test_debug_is_in_every_help(capsys, verb):
    assert run([*verb, "--help"]) == 0
    assert "--debug " in capsys.readouterr().out


def test_probe_says_when_a_recipe_is_needed(capsys):
    assert run(["probe", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "unless the recipe names your own code: --recipe r.yaml" in text


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_a_quiet_report_keeps_its_results(tmp_path, capsys, monkeypatch, flag):
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE, "run.h5")
    argv = ["report", "run.h5", "--watch", "--fail-on", "steps > 0"]
    assert run(argv) == 1
    loud = capsys.readouterr()
    assert loud.err.startswith("watching: run.html follows the run")
    assert run([*argv, flag]) == 1
    quiet = capsys.readouterr()
    assert quiet.out == loud.out and loud.out.endswith("\npage: run.html\n")
    assert loud.out.startswith("run.h5: Trained, but unstable: loss 4.483")
    assert quiet.err == "".join(loud.err.splitlines(keepends=True)[1:])
    assert quiet.err.startswith("gate fired: steps > 0")


def test_gates_that_passed_are_said_and_those_without_a_value_are_no_firing(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE, "run.h5")
    assert run(["report", "run.h5", "--fail-on", "steps < 1", "--fail-on", "spikes > 9"]) == 0
    assert capsys.readouterr().out.endswith("page: run.html\ngates: 2 passed\n")
    with h5py.File("run.h5", "a") as file:
        file["loss"][-1] = float("nan")
    assert run(["report", "run.h5", "--fail-on", "val_loss > 99"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("gate not evaluable, counts as fired: val_loss > 99: val_loss was not")
