"""What a narrow terminal, a path with a space and a finished run are told."""

import io
import re
import shlex
from dataclasses import replace

import pytest
from rich.console import Console

from homotopy_cli.cli.progress import LiveProgress, facts
from homotopy_cli.cli.render import plain_table, print_table
from homotopy_cli.cli.train_run import sentences
from homotopy_cli.errors import typed
from homotopy_cli.records import EvalRecord
from homotopy_cli.training.observer import StepView
from homotopy_cli.training.outputs import run_paths
from homotopy_cli.training.summary import Tally, TrainResult

VIEW = StepView(
    step=1233,
    total=20000,
    loss=1.218,
    lr=1.5e-06,
    lambda_max=1.46e-5,
    kappa=123.4,
    edge_ratio=0.00132,
    probe_share=0.282,
    seconds=60.0,
    eta=3723.0,
)
DONE = TrainResult(
    status="finished",
    step=20,
    total=20,
    paths=run_paths("my runs/run.h5"),
    tally=Tally(first_loss=2.0, last_loss=1.0, best_loss=1.0, n_probes=3, peak_edge=0.5),
    final_loss=1.0,
    n_params=7,
    seconds=4.0,
    probe_seconds=1.0,
    probe_share=0.2,
)


@pytest.mark.parametrize("width", [50, 80, 100, 130, 160])
def test_the_live_line_keeps_its_step_and_cuts_no_number(monkeypatch, width):
    screen = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr("homotopy_cli.cli.render.console", lambda **_: screen)
    live = LiveProgress()
    live.start(VIEW.total, 1233)
    live.evaluation(EvalRecord(1233, {"eval_loss": 0.8213}))
    live.step(VIEW)
    live._bar.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.file.getvalue()).split("\r")[-1]
    live.stop()
    assert "1234/20000" in shown and "…" not in shown and "eta 1:02:03" in shown
    assert ("probing" in shown, "κ" in shown) == (width >= 130, width >= 130)
    assert ("eval 0.8213" in shown) == (width >= 80)


def test_facts_leave_out_what_matters_least():
    whole = facts(VIEW, "eval 0.8213")
    assert whole == (
        "loss 1.218  lr 1.5e-06  λmax 1.46e-05  κ 123  edge 0.00132  probing 28.2%  eval 0.8213"
    )
    assert facts(VIEW, "eval 0.8213", room=len(whole)) == whole
    assert "κ" not in facts(VIEW, "eval 0.8213", room=len(whole) - 1)
    assert facts(VIEW, room=3) == "loss 1.218"


def test_a_table_wider_than_the_terminal_keeps_every_number():
    screen = Console(file=io.StringIO(), width=20, force_terminal=True, color_system=None)
    table = plain_table("Overall", ("quantity", "left"), ("value", "right"), ("error", "left"))
    table.add_row("λ_max (sharpness)", "174.823", "± 3.8e-04")
    print_table(screen, table)
    text = screen.file.getvalue()
    assert "174.823" in text and "± 3.8e-04" in text and "…" not in text
    assert screen.width == 20


@pytest.mark.parametrize("path", ["runs/a/run.h5", "übung/run.h5", "my runs/run.h5", "a'b;c"])
def test_a_path_is_shown_as_a_shell_reads_it(path):
    assert shlex.split(typed(path)) == [path]
    assert ("'" in typed(path)) == (" " in path or ";" in path)


def test_the_next_command_can_be_pasted_and_overhead_is_a_share_of_the_time():
    lines = sentences(
        replace(DONE, status="interrupted", signal="SIGINT"),
        command="homotopy train 'a b.yaml'",
        page=False,
    )
    assert "            homotopy report 'my runs/run.h5'" in lines
    said = "3 probes, 20.0% of the steps' time; 25.0% of this process's with spectra and components"
    assert any(f"curvature: {said}; largest edge ratio" in line for line in lines)


def test_a_run_that_is_already_whole_says_so_first():
    whole = replace(DONE, seconds=0.0, warnings=("the run already has 20 steps; --set steps=N",))
    lines = sentences(whole, command="homotopy train", page=False)
    assert lines[0] == "nothing to do: the run already has 20 steps; --set steps=N"
    assert not any("of this process" in line and "curvature" in line for line in lines)
    assert any(line.startswith("curvature: 3 probes; largest edge ratio 0.5") for line in lines)
