"""Files that are not what was meant, outputs to stdout, options that exclude each other."""

import json
import shutil
from pathlib import Path

import pytest

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
