"""What the writer refuses, in which words, and that nothing changes when it does."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from runlog_cases import CHILD, REPOSITORY, fill, foreign_log, info, run_child

from homotopy_cli.errors import LogError
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.runlog.writer import RunWriter

HOLD = """
import h5py, sys
file = h5py.File(sys.argv[1], "a")
file.attrs["held"] = 1
file.flush()
print("holding", flush=True)
sys.stdin.readline()
"""


def listing(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.fixture
def held_by_h5py(tmp_path):
    """A log that another program holds open for writing, as plain h5py does."""
    path = tmp_path / "run.h5"
    foreign_log(path, 50)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "holding\n"
        yield path
        holder.stdin.close()


@pytest.fixture
def held_by_us(tmp_path):
    """A live run of ours in another process, 8 rows in."""
    path = tmp_path / "run.h5"
    holder = subprocess.Popen(
        [sys.executable, str(CHILD), str(path), "new", "8", "100", "hold"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(REPOSITORY)},
    )
    with holder:
        while holder.stdout.readline() != "holding\n":
            assert holder.poll() is None
        yield path
        holder.stdin.close()
        holder.stdout.read()


def test_an_existing_log_is_refused_by_name(tmp_path):
    path = tmp_path / "run.h5"
    RunWriter.create(path, info()).close()
    before = listing(tmp_path)
    with pytest.raises(LogError) as caught:
        RunWriter.create(path, info())
    assert caught.value.message == f"{path}: exists already"
    assert "--resume continues it, --overwrite replaces it" in caught.value.hint
    assert caught.value.exit_code == 2
    assert listing(tmp_path) == before


@pytest.mark.parametrize("options", [{}, {"overwrite": True}], ids=["create", "overwrite"])
def test_a_log_that_h5py_holds_is_refused_and_unharmed(held_by_h5py, options):
    before = listing(held_by_h5py.parent)
    with pytest.raises(LogError, match="is being written by another process") as caught:
        RunWriter.create(held_by_h5py, info(), **options)
    assert caught.value.message == f"{held_by_h5py}: is being written by another process"
    with pytest.raises(LogError, match="is being written by another process"):
        RunWriter.resume(held_by_h5py, step=3)
    assert listing(held_by_h5py.parent) == before


def test_a_log_that_h5py_holds_is_read_so_far(held_by_h5py):
    log = read_log(held_by_h5py)
    np.testing.assert_array_equal(log.step, np.arange(50))
    assert log.notes == ("being written by another process: the rows so far",)


def test_the_second_writer_is_refused_and_the_first_goes_on(held_by_us):
    for options in ({}, {"overwrite": True}):
        with pytest.raises(LogError, match="is being written by another process") as caught:
            RunWriter.create(held_by_us, info(), **options)
        assert caught.value.exit_code == 2
    with pytest.raises(LogError, match="is being written by another process"):
        RunWriter.resume(held_by_us, step=3)
    second = run_child(held_by_us, "new", "3", "2")
    assert second.returncode == 2
    assert second.stderr == f"{held_by_us}: is being written by another process\n"
    log = read_log(held_by_us)
    np.testing.assert_array_equal(log.step, np.arange(8))
    assert log.notes == ("live or interrupted: 8 rows from the journal",)


def test_a_writer_refuses_a_second_one_in_its_own_process(tmp_path):
    path = tmp_path / "run.h5"
    with RunWriter.create(path, info()) as writer:
        fill(writer, range(3))
        with pytest.raises(LogError, match="is being written by another process"):
            RunWriter.resume(path, step=1)
        fill(writer, range(3, 6))
    np.testing.assert_array_equal(read_log(path).step, np.arange(6))


def test_readers_do_not_disturb_a_writer_nor_it_them(tmp_path):
    path = tmp_path / "run.h5"
    with RunWriter.create(path, info()) as writer:
        for i in range(0, 40, 2):
            with h5py.File(path, "r") as held:  # open across a fold
                fill(writer, range(i, i + 2))
                writer.fold()
                assert len(held["step"]) == i
            np.testing.assert_array_equal(read_log(path).step, np.arange(i + 2))


def test_overwriting_replaces_only_logs(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"PK\x03\x04 a checkpoint")
    with pytest.raises(LogError, match=r"weights\.pt: is not an HDF5 file, so it is not replaced"):
        RunWriter.create(path, info(), overwrite=True)
    assert listing(tmp_path) == {"weights.pt": b"PK\x03\x04 a checkpoint"}
    (tmp_path / "folder").mkdir()
    with pytest.raises(LogError, match="is not an HDF5 file"):
        RunWriter.create(tmp_path / "folder", info(), overwrite=True)


def test_overwriting_a_log_that_was_cut_off_works(tmp_path):
    path = tmp_path / "run.h5"
    RunWriter.create(path, info()).close()
    path.write_bytes(path.read_bytes()[:96])
    with RunWriter.create(path, info(), overwrite=True) as writer:
        assert path.stat().st_size == 96
        fill(writer, range(3))
        np.testing.assert_array_equal(read_log(path).step, np.arange(3))
    np.testing.assert_array_equal(read_log(path).step, np.arange(3))


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "run.h5"
    with pytest.raises(LogError, match=r"run\.h5: cannot be written: Not a directory"):
        RunWriter.create(path, info())
    long = tmp_path / ("x" * 300 + ".h5")
    with pytest.raises(LogError, match="cannot be written: File name too long"):
        RunWriter.create(long, info())
    assert listing(tmp_path) == {"file": b""}


def test_a_symbolic_link_is_followed_not_replaced(tmp_path):
    (tmp_path / "store").mkdir()
    link = tmp_path / "run.h5"
    link.symlink_to(tmp_path / "store" / "real.h5")
    with RunWriter.create(link, info()) as writer:
        fill(writer, range(4))
        np.testing.assert_array_equal(read_log(link).step, np.arange(4))
    assert link.is_symlink()
    assert (tmp_path / "store" / "real.h5").is_file()


def test_a_start_that_was_killed_at_once_does_not_block_the_next(tmp_path):
    (tmp_path / "run.h5.journal").write_bytes(b"HJR1\x00")
    with RunWriter.create(tmp_path / "run.h5", info()) as writer:
        fill(writer, range(2))
    assert [p.name for p in tmp_path.iterdir()] == ["run.h5"]
