"""The best weights are kept, a run that gains nothing ends, a limit on time saves and leaves."""

import numpy as np
import pytest
import torch
from training_runs import StopAt, assert_same_rows, folder

from homotopy_cli.cli.train_run import sentences
from homotopy_cli.errors import LogError, RecipeError
from homotopy_cli.problems.load import load_problem
from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.build import build_run
from homotopy_cli.training.evaluate import evaluate
from homotopy_cli.training.loop import train
from homotopy_cli.training.stopping import Stopping

STILL = "{name: sgd, lr: 1e-30}"  # weights that never move: no evaluation gains anything
WILD = "{name: sgd, lr: 6.0, momentum: 0.9}"  # good at first, then worse


def test_patience_counts_evaluations_without_a_sufficient_gain():
    """Keras' rule, by hand: 1.0 sets the mark, 0.95 gains too little, 0.8 resets, then two."""
    stopping = Stopping(patience=2, min_delta=0.1)
    seen = []
    for step, loss in enumerate([1.0, 0.95, 0.8, 0.75, float("nan")]):
        seen.append((stopping.evaluated(step, loss), stopping.waited, bool(stopping.early)))
    assert seen == [
        (True, 0, False),
        (True, 1, False),
        (True, 0, False),
        (True, 1, False),
        (False, 2, True),
    ]
    assert stopping.best == (3, 0.75) and stopping.reference == 0.8
    assert stopping.early == (
        "2 evaluations in a row without more than 0.1 gain on the held-out loss; "
        "best 0.75 after 3 steps"
    )


def test_without_patience_nothing_ends_early():
    stopping = Stopping()
    for step in range(50):
        stopping.evaluated(step, 1.0)
    assert stopping.early == "" and stopping.late(began=-1e9) == ""


def wild(path, **more):
    recipe = folder(path, optimizer=WILD, eval_every=2, **more)
    return load_recipe(
        recipe, ["model={name: mlp, hidden: [6]}", "loss=cross_entropy", "keep_best=true"]
    )


def test_best_pt_holds_the_weights_of_the_smallest_evaluation(tmp_path):
    loaded = wild(tmp_path)
    result = train(loaded, tmp_path / "run.h5")
    log = read_log(tmp_path / "run.h5")
    least = int(np.argmin(log.evals["eval_loss"]))
    assert 0 < least < len(log.eval_step) - 1  # neither the first nor the last
    step, loss = int(log.eval_step[least]), float(log.evals["eval_loss"][least])
    assert result.best_eval == (step, loss)
    kept = torch.load(tmp_path / "best.pt", weights_only=True)
    assert kept["step"] == step
    run = build_run(loaded)
    run.load_state_dict(kept)
    assert evaluate(run.model, run.loss, run.eval_batches)["eval_loss"] == loss
    problem = load_problem(tmp_path / "best.pt").problem
    for name, tensor in problem.params.items():
        assert torch.equal(tensor.detach(), kept["model"][name])
    best = f"best        {tmp_path / 'best.pt'} (held-out loss {loss:.4g} after {step} steps)"
    assert best in sentences(result, command="homotopy train", page=False)


def test_best_pt_is_part_of_the_run(tmp_path):
    """It is named after another log, refused when there, and replaced with --overwrite."""
    train(wild(tmp_path), tmp_path / "a.h5")
    assert (tmp_path / "a-best.pt").exists()
    (tmp_path / "a.h5").unlink()
    (tmp_path / "a.pt").unlink()
    with pytest.raises(LogError, match=r"a-best\.pt: exists"):
        train(wild(tmp_path), tmp_path / "a.h5")
    train(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "a.h5", overwrite=True)
    assert not (tmp_path / "a-best.pt").exists()


def still(path):
    return load_recipe(
        folder(path, optimizer=STILL, eval_every=2), ["early_stop={patience: 3}", "keep_best=true"]
    )


def test_a_run_that_gains_nothing_finishes_early(tmp_path):
    """Evaluations at 0 (the mark), 2, 4, 6: the third without a gain ends the run."""
    result = train(still(tmp_path), tmp_path / "run.h5")
    assert (result.status, result.step, result.exit_code) == ("finished", 6, 0)
    log = read_log(tmp_path / "run.h5")
    assert log.status == "finished" and log.eval_step.tolist() == [0, 2, 4, 6]
    (event,) = [e for e in log.events if e.code == "EARLY_STOP"]
    why = "3 evaluations in a row without any gain on the held-out loss; best "
    assert event.message.startswith(why) and event.message.endswith("after 0 steps")
    lines = sentences(result, command="homotopy train", page=False)
    assert lines[0].startswith("finished early: 6 of 20 steps, ")
    assert lines[1] == f"why: {event.message}"


def test_a_run_that_ended_early_goes_on_only_with_more_patience(tmp_path):
    train(still(tmp_path), tmp_path / "run.h5")
    before = (tmp_path / "run.h5").read_bytes()
    result = train(still(tmp_path), tmp_path / "run.h5", resume=True)
    assert result.warnings == ("the run already has 6 steps; --set early_stop.patience=N for more",)
    assert (tmp_path / "run.h5").read_bytes() == before
    more = load_recipe(tmp_path / "recipe.yaml", ["early_stop={patience: 5}", "keep_best=true"])
    assert train(more, tmp_path / "run.h5", resume=True).step == 10


@pytest.mark.parametrize("stop", [3, 7])
def test_a_resumed_run_keeps_its_best_and_its_patience(tmp_path, stop):
    loaded = wild(tmp_path, more="early_stop: {patience: 4, min_delta: 0.01}")
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = train(loaded, tmp_path / "whole" / "run.h5")
    train(loaded, tmp_path / "parts" / "run.h5", observer=StopAt(stop))
    parts = train(loaded, tmp_path / "parts" / "run.h5", resume=True)
    assert (parts.step, parts.best_eval, parts.early) == (whole.step, whole.best_eval, whole.early)
    assert_same_rows(*(read_log(tmp_path / n / "run.h5") for n in ("whole", "parts")))
    files = [(tmp_path / n / "best.pt").read_bytes() for n in ("whole", "parts")]
    assert files[0] == files[1]


def test_a_limit_on_time_saves_evaluates_and_is_resumed(tmp_path):
    recipe = folder(tmp_path, scheduler="homotopy", eval_every=4)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    train(load_recipe(recipe), tmp_path / "whole" / "run.h5")
    out = tmp_path / "parts" / "run.h5"
    result = train(load_recipe(recipe, ["max_seconds=1e-9"]), out)
    assert (result.status, result.step, result.exit_code, result.signal) == (
        "interrupted",
        1,
        0,
        "",
    )
    log = read_log(out)
    assert log.status == "interrupted" and log.eval_step.tolist() == [0, 1]
    (event,) = [e for e in log.events if e.code == "TIME_LIMIT"]
    assert event.message == "max_seconds 1e-09 reached after step 0"
    lines = sentences(result, command="homotopy train", page=False)
    assert lines[0].startswith("time limit: 1 of 20 steps, ")
    assert lines[1] == "why: max_seconds 1e-09 reached"
    assert any(line.startswith("next        homotopy train --resume") for line in lines)
    assert train(load_recipe(recipe), out, resume=True).status == "finished"
    kept = [
        torch.load(tmp_path / n / "run.pt", weights_only=True)["model"] for n in ("whole", "parts")
    ]
    for name, tensor in kept[0].items():
        assert torch.equal(tensor, kept[1][name])
    first, second = (read_log(tmp_path / n / "run.h5") for n in ("whole", "parts"))
    assert first.steps["loss"].tolist() == second.steps["loss"].tolist()


@pytest.mark.parametrize(
    ("setting", "what", "hint"),
    [
        ("keep_best=true", "keep_best=true: needs evaluations on the way", "eval_every: 100"),
        ("early_stop={}", "early_stop={}: needs evaluations on the way", "eval_every: 100"),
        ("early_stop={patience: 0}", "0 is too small", "at least 1"),
        ("early_stop={patiance: 3}", "unknown key of early_stop", "did you mean 'patience'?"),
        ("max_seconds=0", "0 is too small", "greater than 0"),
    ],
)
def test_faults_in_words(tmp_path, setting, what, hint):
    with pytest.raises(RecipeError) as caught:
        load_recipe(folder(tmp_path), [setting])
    message, said = caught.value.faults[0]
    assert what in message and hint in said, (message, said)


def test_data_without_a_held_out_batch_cannot_judge(tmp_path):
    recipe = load_recipe(folder(tmp_path, eval_every=2), ["keep_best=true"]).recipe
    with pytest.raises(RecipeError, match="keep_best: the data have no held-out batch") as caught:
        Stopping.of(recipe, 0)
    assert caught.value.hint == "give the data a holdout, or leave keep_best out"
