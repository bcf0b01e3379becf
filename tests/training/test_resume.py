"""An interrupted run that is resumed ends as if it had never been interrupted."""

import signal

import pytest
import torch
from training_runs import StopAt, assert_same_rows, folder

from homotopy_cli.errors import CheckpointError, HomotopyError, LogError
from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.loop import train

SCHEDULERS = {
    "cosine": "{name: cosine, warmup: 3}",
    "homotopy": "{name: homotopy, inner: {name: cosine, warmup: 3}}",
}


def run(tmp_path, name, recipe, **options):
    out = tmp_path / name / "run.h5"
    out.parent.mkdir(exist_ok=True)
    return train(load_recipe(recipe), out, **options)


def contents(tmp_path, name):
    kept = torch.load(tmp_path / name / "run.pt", weights_only=True)
    kept.pop("recipe_dir")
    return kept


def assert_equal(first, second, where="run.pt"):
    """Nested equality with tensors bit for bit."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for i, pair in enumerate(zip(first, second, strict=True)):
            assert_equal(*pair, f"{where}[{i}]")
    elif isinstance(first, torch.Tensor):
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True, msg=where)
    else:
        assert first == second or first != first, where


@pytest.mark.parametrize("stop", [0, 7, 12, 18])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_signal_and_a_resume_change_nothing(tmp_path, scheduler, stop):
    """Dropout, BatchNorm, AdamW moments, warm vectors, evaluations: all of it goes on."""
    recipe = folder(
        tmp_path,
        model="build_with_state",
        optimizer="{name: adamw, lr: 3e-2}",
        scheduler=SCHEDULERS[scheduler],
        freq=3,
        eval_every=4,
        checkpoint_every=5,
    )
    run(tmp_path, "whole", recipe)
    first = run(tmp_path, "parts", recipe, observer=StopAt(stop))
    assert (first.status, first.exit_code, first.step) == ("interrupted", 143, stop + 1)
    log = read_log(tmp_path / "parts" / "run.h5")
    assert log.attrs["status"] == "interrupted" and log.step.tolist() == list(range(stop + 1))
    second = run(tmp_path, "parts", recipe, resume=True)
    assert (second.status, second.step) == ("finished", 20)
    assert_equal(contents(tmp_path, "parts"), contents(tmp_path, "whole"))
    log = read_log(tmp_path / "parts" / "run.h5")
    assert_same_rows(log, read_log(tmp_path / "whole" / "run.h5"))
    assert log.steps["wall_time"].tolist() == sorted(log.steps["wall_time"].tolist())


def test_sigint_exits_130_and_the_handlers_come_back(tmp_path):
    recipe = folder(tmp_path)
    former = signal.getsignal(signal.SIGINT)
    result = run(tmp_path, "a", recipe, observer=StopAt(3, signal.SIGINT))
    assert (result.exit_code, result.signal) == (130, "SIGINT")
    assert signal.getsignal(signal.SIGINT) is former


def test_resume_without_a_checkpoint_starts_again_in_the_same_log(tmp_path):
    """Killed before the first checkpoint: the seed is the checkpoint."""
    recipe = folder(tmp_path, scheduler="homotopy", eval_every=5)
    run(tmp_path, "whole", recipe)
    run(tmp_path, "parts", recipe, observer=StopAt(6))
    (tmp_path / "parts" / "run.pt").unlink()
    run(tmp_path, "parts", recipe, resume=True)
    assert_equal(contents(tmp_path, "parts"), contents(tmp_path, "whole"))
    whole, parts = (read_log(tmp_path / name / "run.h5") for name in ("whole", "parts"))
    assert_same_rows(parts, whole)
    assert parts.attrs["attempts"] == 2 and parts.hidden_rows == 7


class Heard(StopAt):
    """Stops after a step, and keeps what it is told of events."""

    def __init__(self, step=-1):
        super().__init__(step)
        self.notes = []

    def event(self, record):
        if record.code == "RESUMING":
            self.notes.append(record.message)


def test_a_resume_says_where_it_goes_on_and_what_is_taken_again(tmp_path):
    recipe = folder(tmp_path)
    log, kept = tmp_path / "a" / "run.h5", tmp_path / "a" / "run.pt"
    run(tmp_path, "a", recipe, observer=StopAt(3))
    early = kept.read_bytes()
    heard = Heard(9)
    run(tmp_path, "a", recipe, observer=heard, resume=True)
    assert heard.notes == [f"{log}: resuming at step 4 of 20"]
    kept.write_bytes(early)  # killed before the next checkpoint
    heard = Heard(9)
    run(tmp_path, "a", recipe, observer=heard, resume=True)
    again = "6 logged steps are taken again, for the last checkpoint is of step 4"
    assert heard.notes == [f"{log}: resuming at step 4 of 20; {again}"]
    kept.unlink()
    heard = Heard()
    run(tmp_path, "a", recipe, observer=heard, resume=True)
    again = "10 logged steps are taken again, for no checkpoint was saved"
    assert heard.notes == [f"{log}: resuming at step 0 of 20; {again}"]
    assert not [e for e in read_log(log).events if e.code == "RESUMING"]


def test_resume_with_nothing_there_simply_starts(tmp_path):
    recipe = folder(tmp_path)
    assert run(tmp_path, "a", recipe, resume=True).status == "finished"


def test_resume_of_a_finished_run_touches_nothing_and_says_how_to_go_on(tmp_path):
    recipe = folder(tmp_path, eval_every=10)
    first = run(tmp_path, "a", recipe)
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    again = run(tmp_path, "a", recipe, resume=True)
    assert again.warnings == ("the run already has 20 steps; --set steps=N for more",)
    assert (again.final_loss, again.eval_loss) == (first.final_loss, first.eval_loss)
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before


def test_more_steps_continue_a_finished_run(tmp_path):
    """Under a constant rate 12 + 8 steps are the 20 steps, bit for bit."""
    recipe = folder(tmp_path)
    run(tmp_path, "whole", recipe)
    out = tmp_path / "parts" / "run.h5"
    train(load_recipe(recipe, ["steps=12"]), out)
    train(load_recipe(recipe), out, resume=True)
    parts, whole = contents(tmp_path, "parts"), contents(tmp_path, "whole")
    assert_equal(parts["model"], whole["model"])
    changes = [e.message for e in read_log(out).events if e.code == "RECIPE_CHANGED"]
    assert changes == ["steps: 12 -> 20"]


def test_another_recipe_is_refused_with_the_settings_that_fit(tmp_path):
    recipe = folder(tmp_path)
    run(tmp_path, "a", recipe, observer=StopAt(3))
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    with pytest.raises(CheckpointError) as caught:
        changed = load_recipe(recipe, ["optimizer.lr=0.2", "batch_size=8"])
        train(changed, tmp_path / "a" / "run.h5", resume=True)
    assert "was trained with optimizer.lr = 0.1, the recipe now says 0.2" in caught.value.message
    assert "(and 1 more)" in caught.value.message
    assert "--set optimizer.lr=0.1 --set batch_size=16" in caught.value.hint
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before


def test_a_lost_log_is_named(tmp_path):
    recipe = folder(tmp_path)
    run(tmp_path, "a", recipe)
    (tmp_path / "a" / "run.h5").unlink()
    with pytest.raises(CheckpointError, match=r"run\.h5: is missing, but run\.pt is at step 20"):
        run(tmp_path, "a", recipe, resume=True)


def test_a_checkpoint_ahead_of_its_log_is_said(tmp_path):
    """Rows that a failing disk lost are a gap in the log, not a reason to lose the run."""
    recipe = folder(tmp_path)
    run(tmp_path, "a", recipe, observer=StopAt(3))
    run(tmp_path, "b", recipe, observer=StopAt(9))
    (tmp_path / "a" / "run.pt").write_bytes((tmp_path / "b" / "run.pt").read_bytes())
    result = run(tmp_path, "a", recipe, resume=True)
    assert result.warnings == ("6 rows before step 10 are not in the log",)


def test_an_existing_run_is_refused_before_anything_is_read(tmp_path):
    """Even a recipe whose data are missing is not looked at."""
    recipe = folder(tmp_path)
    run(tmp_path, "a", recipe)
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    (tmp_path / "data.npz").unlink()
    with pytest.raises(LogError, match=r"run\.h5: exists \(and run\.pt\)"):
        run(tmp_path, "a", recipe)
    with pytest.raises(HomotopyError, match=r"data\.npz"):
        run(tmp_path, "a", recipe, overwrite=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before


def test_overwrite_replaces_log_and_checkpoint(tmp_path):
    recipe = folder(tmp_path)
    run(tmp_path, "a", recipe)
    (tmp_path / "a" / "run.html").write_text("of the old run")
    train(load_recipe(recipe, ["seed=3"]), tmp_path / "a" / "run.h5", overwrite=True)
    log = read_log(tmp_path / "a" / "run.h5")
    assert log.provenance["seed"] == 3 and log.attrs["attempts"] == 1
    assert not (tmp_path / "a" / "run.html").exists()


@pytest.mark.parametrize("left", [b"", b"HJ"])
def test_a_run_killed_before_its_journal_had_a_header_begins_anew(tmp_path, left):
    recipe = folder(tmp_path, steps=6)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "run.h5.journal").write_bytes(left)
    assert run(tmp_path, "a", recipe, resume=True).exit_code == 0
    assert len(read_log(tmp_path / "a" / "run.h5").step) == 6
