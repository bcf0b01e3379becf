"""A folder in place of its logs."""

from pathlib import Path

from homotopy_cli.cli.log_folders import expanded


def test_a_folder_stands_for_the_logs_in_it(tmp_path):
    folder = tmp_path / "sweep"
    (folder / "deeper.h5").mkdir(parents=True)
    for name in ("b.h5", "a.h5", "a.pt", "sweep.csv", "c.h5.journal", "a.h5.journal"):
        (folder / name).touch()
    inside = [folder / name for name in ("a.h5", "b.h5", "c.h5")]
    assert expanded([folder]) == (inside, folder / "compare.html")
    assert expanded([Path("x.h5"), folder]) == ([Path("x.h5"), *inside], None)
    assert expanded([folder / "b.h5", folder])[0] == [inside[1], inside[0], inside[2]]


def test_one_log_and_none(tmp_path):
    assert expanded([tmp_path]) == ([tmp_path], None)  # refused as a log, with what lies there
    (tmp_path / "run.h5").touch()
    assert expanded([tmp_path]) == ([tmp_path / "run.h5"], None)
