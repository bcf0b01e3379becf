"""The README promises commands, options and names: each must exist."""

import os
import re
import shlex
import textwrap
from pathlib import Path

import pytest
import torch
import yaml
from typer.main import get_command

import homotopy_cli
from homotopy_cli.cli.app import app, run
from homotopy_cli.records import RunInfo, StepRecord
from homotopy_cli.runlog.writer import RunWriter

TEXT = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, flags=re.S)
SHELL = [body for kind, body in BLOCKS if kind == ""]
COMMANDS = sorted(
    {
        line.removeprefix("$ ").split("&& ")[-1]
        for body in SHELL
        for line in body.replace("\\\n", " ").splitlines()
        if re.match(r"(\$ |pip install \. && )?homotopy ", line)
    }
)


(WORKFLOW,) = (yaml.safe_load(body) for kind, body in BLOCKS if "runs-on" in body)
STEPS = [step["run"] for step in WORKFLOW["jobs"]["short-run"]["steps"] if "run" in step]
IN_CI = [line for line in STEPS if line.startswith("homotopy ")]


@pytest.mark.parametrize("line", COMMANDS + IN_CI)
def test_every_command_is_one_the_program_knows(line):
    words = shlex.split(line)
    command = get_command(app).commands[words[1]]
    known = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
    flags = {word.split("=")[0] for word in words[2:] if word.startswith("--")}
    assert flags <= known, f"{line}: {flags - known}"


def test_there_are_commands_to_check():
    verbs = {line.split()[1] for line in COMMANDS}
    assert verbs == {"probe", "train", "report"}


@pytest.mark.parametrize("body", [body for kind, body in BLOCKS if kind == "python"])
def test_python_compiles_and_names_what_exists(body):
    compile(body, "README.md", "exec")
    for names in re.findall(r"from homotopy_cli import (.*)", body):
        for name in names.split(","):
            assert hasattr(homotopy_cli, name.strip())


def test_the_loop_of_ones_own_runs_and_its_log_is_read(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Linear(4, 3)
    (loop,) = (body for _, body in BLOCKS if "scheduler = HomotopyLR(" in body)
    (logged,) = (body for _, body in BLOCKS if "RunLogger(" in body)
    names = {
        "nn": torch.nn,
        "model": model,
        "loss_fn": torch.nn.CrossEntropyLoss(),
        "optimizer": torch.optim.AdamW(model.parameters()),
        "loader": [(torch.randn(8, 4), torch.randint(0, 3, (8,))) for _ in range(5)],
        "epochs": 2,
        "norm": 1.0,
        "held_out_loss": 1.5,
    }
    exec(loop, names)
    assert names["scheduler"].n_probes > 2
    *_, body = loop.partition("loader:\n")
    exec(logged.replace("        ...", textwrap.indent(textwrap.dedent(body), " " * 8)), names)
    log = homotopy_cli.read_log("runs/mine/run.h5")
    assert log.step.tolist() == list(range(5)) and log.evals["eval_loss"].tolist() == [1.5]


@pytest.mark.parametrize("ends", [12, 20])
def test_the_table_of_a_resumed_log_holds_no_superseded_row(tmp_path, monkeypatch, ends):
    """Killed at step 15, resumed at 10, to the end or again stopped on the way."""
    pytest.importorskip("pandas")
    (body,) = (body for _, body in BLOCKS if "pandas.DataFrame" in body)
    info = RunInfo("r", (), (), (), "", {}, {}, (), 0, 1)
    with RunWriter.create(tmp_path / "run.h5", info) as writer:
        for step in range(15):
            writer.append_step(StepRecord(step, {"loss": 1.0, "lr": 0.1}))
    with RunWriter.resume(tmp_path / "run.h5", step=10) as writer:
        for step in range(10, ends):
            writer.append_step(StepRecord(step, {"loss": 2.0, "lr": 0.1}))
    monkeypatch.chdir(tmp_path)
    names = {}
    lines = (line for line in body.splitlines() if "xarray.open_dataset" not in line)
    exec("\n".join(lines).replace(", xarray", ""), names)
    log = homotopy_cli.read_log("run.h5")
    assert names["table"].step.tolist() == log.step.tolist() == list(range(ends))
    assert names["table"].loss.tolist() == log.steps["loss"].tolist()


@pytest.mark.parametrize("body", [body for kind, body in BLOCKS if kind == "yaml"])
def test_yaml_parses(body):
    assert yaml.safe_load(body)


def test_no_placeholder_and_no_dead_link():
    assert not re.search(r"@[A-Z]+@", TEXT)
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (Path(__file__).parent.parent / target).exists(), target


def test_the_workflow_runs_in_a_repository_that_is_not_ours():
    """It installs this package, not the reader's, and reads no file but the reader's recipe."""
    assert STEPS[0].startswith("pip install homotopy-cli")
    words = [word for line in IN_CI for word in shlex.split(line)]
    assert {word for word in words if word.endswith((".yaml", ".py"))} == {"recipe.yaml"}
    assert [line.split()[1] for line in IN_CI] == ["train", "report"]


def test_the_workflow_stops_a_bad_run_and_passes_a_good_one(tmp_path, monkeypatch):
    """Its own commands, in an empty folder, with the recipe that `--copy` gives."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    assert run(["train", "--copy", "quickstart"]) == 0
    (recipe,) = tmp_path.glob("*.yaml")
    recipe.rename("recipe.yaml")
    train, report = (shlex.split(os.path.expandvars(line))[1:] for line in IN_CI)
    small = ["--profile", "small", "--set", "steps=20"]
    assert run([*train, *small]) == 0
    assert run(report) == 0
    assert run([*report, "--fail-on", "val_loss > 1"]) == 1
    assert all(Path(name).is_file() for name in ("report.html", "summary.md", "gates.xml"))
