"""Checkpoints that cannot be written: said once, tried again, and the run goes on."""

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
