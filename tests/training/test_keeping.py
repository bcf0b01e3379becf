"""Checkpoints that cannot be written: said once, tried again, and the run goes on."""

import resource
from dataclasses import replace

import pytest
from training_runs import StopAt, folder

from homotopy_cli.cli import train_run
from homotopy_cli.errors import CheckpointError
from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.loop import train
from homotopy_cli.training.ranks import SOLO


class Blocked(StopAt):
    """A folder stands where run.pt goes, after some steps and until others."""

    def __init__(self, path, *, closed: set[int], opened: set[int]) -> None:
        self.path, self.closed, self.opened = path, closed, opened

    def step(self, view):
        if view.step in self.closed:
            self.path.unlink()
            (self.path / "inside").mkdir(parents=True)
        if view.step in self.opened:
            (self.path / "inside").rmdir()
            self.path.rmdir()


def test_a_save_that_fails_again_and_again_is_said_once_until_it_works(tmp_path):
    recipe = folder(tmp_path, checkpoint_every=1, steps=12, freq=0)
    out = tmp_path / "run.h5"
    blocked = Blocked(out.with_suffix(".pt"), closed={2, 8}, opened={6, 10})
    result = train(load_recipe(recipe), out, observer=blocked)
    said = read_log(out).events
    failed = [e.step for e in said if e.code == "CHECKPOINT_FAILED"]
    assert failed == [3, 9]  # steps made: after step 2 and after step 8, not at each in between
    assert len(result.warnings) == 2 and "run.pt: could not be written" in result.warnings[0]
    assert result.exit_code == 0 and out.with_suffix(".pt").is_file()


def test_when_the_last_save_fails_the_summary_comes_first_and_then_what_to_type(
    tmp_path, monkeypatch, capsys
):
    recipe = folder(tmp_path, checkpoint_every=4, steps=6, freq=0)
    out = tmp_path / "run.h5"
    blocked = Blocked(out.with_suffix(".pt"), closed={4}, opened=set())
    monkeypatch.setattr(train_run, "make_progress", lambda **_: blocked)
    monkeypatch.setattr("sys.argv", ["homotopy", "train", str(recipe), "--out", str(out)])
    with pytest.raises(CheckpointError, match=r"run\.pt: could not be written") as caught:
        train_run.run_train(
            load_recipe(recipe),
            recipe=recipe,
            out=out,
            resume=False,
            overwrite=False,
            page=False,
            quiet=True,
            ranks=SOLO,
        )
    again = f"homotopy train {recipe} --resume --out {out}"
    assert caught.value.exit_code == 2 and caught.value.hint.endswith(again)
    said = capsys.readouterr().out
    assert "finished: 6 of 6 steps" in said and f"next        {again}" in said
    assert read_log(out).status == "finished"


class Full(StopAt):
    """No file may grow any more after some step."""

    def step(self, view):
        if view.step == self.at:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))


@pytest.mark.parametrize("keep", [True, False])
def test_a_full_disk_names_the_lost_rows_and_leaves_no_empty_page(
    tmp_path, monkeypatch, capsys, keep
):
    """`keep`: the checkpoint has been saved before; then only rows and page are missing."""
    recipe = folder(tmp_path, checkpoint_every=4, steps=9, freq=0)
    out = tmp_path / "run.h5"
    monkeypatch.setattr(train_run, "make_progress", lambda **_: Full(4))
    monkeypatch.setattr("sys.argv", ["homotopy", "train", str(recipe), "--out", str(out)])
    if keep:
        monkeypatch.setattr("homotopy_cli.training.keeping.save_run", lambda *_: None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(CheckpointError) as caught:
            train_run.run_train(
                load_recipe(recipe),
                recipe=recipe,
                out=out,
                resume=False,
                overwrite=False,
                page=True,
                quiet=True,
                ranks=SOLO,
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = caught.value
    rows = f"{out}: File too large; not closed, 4 rows are lost, those after step 4"
    assert error.message.endswith(rows) and error.exit_code == 2
    assert error.message.startswith(f"{out}:" if keep else f"{out.with_suffix('.pt')}: could not")
    way = "--overwrite" if keep else "--resume"
    assert error.hint == f"free some space, then: homotopy train {recipe} {way} --out {out}"
    said = capsys.readouterr()
    assert "run.html was not written" in said.err and "finished: 9 of 9 steps" in said.out
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    files = {"data.npz", "model.py", "recipe.yaml", "run.h5", "run.h5.journal"}
    assert left == files | (set() if keep else {"run.pt"})
    assert read_log(out).step.tolist() == list(range(5))


def test_a_log_that_could_not_be_folded_but_is_whole_is_a_warning(tmp_path, capsys):
    result = train(load_recipe(folder(tmp_path, freq=0, steps=3)), tmp_path / "run.h5")
    whole = replace(result, unlogged="run.h5: No space; not closed, its journal holds every row")
    train_run.refuse_incomplete(whole, "homotopy train")
    assert capsys.readouterr().err == f"warning: {whole.unlogged}\n"
