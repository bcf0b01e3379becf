"""Where a run writes, and the words of each refusal."""

import os
import stat

import pytest

from homotopy_cli.errors import LogError
from homotopy_cli.training.outputs import (
    make_folder,
    refuse_existing,
    refuse_unwritable,
    run_paths,
)


def test_checkpoint_and_page_lie_beside_the_log(tmp_path):
    paths = run_paths(tmp_path / "a" / "run.h5")
    names = (paths.checkpoint.name, paths.page.name, paths.journal.name)
    assert names == ("run.pt", "run.html", "run.h5.journal")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["run.h5", "run.h5.journal", "run.pt", "run.html"])
def test_any_file_of_an_earlier_run_is_refused_with_the_ways_on(tmp_path, name):
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(LogError) as caught:
        refuse_existing(run_paths(tmp_path / "run.h5"))
    assert caught.value.message.startswith(f"{tmp_path / name}: exists")
    assert "--resume" in caught.value.hint and "--overwrite" in caught.value.hint
    assert (tmp_path / name).read_bytes() == b"precious"


def test_a_folder_as_out_is_refused(tmp_path):
    with pytest.raises(LogError, match="is a folder, and --out names the log") as caught:
        run_paths(tmp_path)
    assert caught.value.hint.endswith("/run.h5")


@pytest.mark.parametrize("suffix", [".pt", ".html", ".journal"])
def test_an_out_that_collides_with_its_neighbours_is_refused(tmp_path, suffix):
    with pytest.raises(LogError, match="--out names the HDF5 log"):
        run_paths(tmp_path / f"run{suffix}")


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(LogError, match="runs is a file, not a folder"):
        refuse_unwritable(run_paths(tmp_path / "runs" / "x" / "run.h5"))


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(LogError, match="cannot be written"):
        make_folder(run_paths(tmp_path / "runs" / "run.h5"))


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch):
    """os.access answers yes to root for anything, so the answer of a plain user is injected."""
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(LogError, match=r"no permission to write in .*locked"):
        refuse_unwritable(run_paths(locked / "new" / "run.h5"))
    assert os.listdir(locked) == []
