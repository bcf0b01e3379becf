"""kill -9 at every point where bytes move: no acknowledged row is lost, and the run resumes."""

import signal

import h5py
import numpy as np
import pytest
from runlog_cases import acknowledged, fill, finish, info, loss, run_child

from homotopy_cli.errors import LogError
from homotopy_cli.runlog.faults import POINTS
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.runlog.writer import RunWriter

ROWS = 23
# The n-th visit of a point: start-up (1), the first fold of rows (2), in the middle of things.
PLANS = [
    "create.locked:1",
    "create.header:1",
    *(f"journal.{where}:{n}" for where in ("write", "torn", "written") for n in (1, 2, 14)),
    *(f"fold.{w}:{n}" for w in ("image", "torn", "written", "synced", "replaced") for n in (1, 3)),
    "fold.synced:4",  # the closing fold
    "fold.replaced:4",
    "journal.reset:1",
    "journal.reset:2",
    "journal.cut:2",
    "close.verified:1",
    "close.removed:1",
]


def assert_complete(log, rows: int) -> None:
    np.testing.assert_array_equal(log.step, np.arange(rows))
    np.testing.assert_array_equal(log.steps["loss"], [loss(i) for i in range(rows)])


def killed(path, *words: str, fault: str) -> int:
    done = run_child(path, *words, fault=fault)
    assert done.returncode == -signal.SIGKILL, f"{fault} was not reached: {done.stderr}"
    return acknowledged(done)


@pytest.mark.parametrize("fault", PLANS)
def test_a_kill_loses_no_acknowledged_row_and_the_run_resumes(tmp_path, fault):
    path = tmp_path / "run.h5"
    safe = killed(path, "new", str(ROWS), "9", fault=fault)
    try:
        log = read_log(path)
    except LogError:
        assert safe == 0, "rows were acknowledged, yet nothing can be read"
        writer = RunWriter.create(path, info())
        safe = 0
    else:
        assert safe <= len(log.step) <= safe + 1
        assert_complete(log, len(log.step))
        if path.exists():
            with h5py.File(path, "r") as file:  # any HDF5 program can open it as it lies there
                assert file.attrs["rows_committed"] == len(file["step"]) == len(file["loss"])
        writer = RunWriter.resume(path, step=safe)
    fill(writer, range(safe, 30))
    finish(writer, 30)
    log = read_log(path)
    assert_complete(log, 30)
    assert log.closed
    assert log.status == "finished"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.h5"]


@pytest.mark.parametrize(
    "fault",
    [
        "fold.torn:1",
        "fold.replaced:1",
        "resume.folded:1",
        "journal.torn:1",
        "resume.replaced:1",
        "journal.torn:2",
    ],
)
def test_a_kill_while_resuming_loses_nothing(tmp_path, fault):
    path = tmp_path / "run.h5"
    safe = killed(path, "new", str(ROWS), "9", fault="journal.torn:20")
    assert safe > 9
    killed(path, f"resume:{safe}", str(ROWS), "9", fault=fault)
    assert_complete(read_log(path), safe)
    with RunWriter.resume(path, step=safe) as writer:
        fill(writer, range(safe, 30))
    assert_complete(read_log(path), 30)


@pytest.mark.parametrize(
    "fault",
    [
        "create.locked:1",
        "journal.torn:1",
        "create.header:1",
        "journal.torn:5",
        "fold.torn:1",
        "fold.synced:1",
    ],
)
def test_overwriting_keeps_the_old_run_until_the_first_fold(tmp_path, fault):
    path = tmp_path / "run.h5"
    assert run_child(path, "new", "12", "5").returncode == 0
    old = path.read_bytes()
    killed(path, "overwrite", str(ROWS), "9", fault=fault)
    assert path.read_bytes() == old


def test_overwriting_ends_with_the_new_run_alone(tmp_path):
    path = tmp_path / "run.h5"
    assert run_child(path, "new", "12", "5").returncode == 0
    killed(path, "overwrite", str(ROWS), "9", fault="journal.torn:9")
    log = read_log(path)
    assert log.attrs["run_id"] == "overwrite"
    assert any("still holds run 'new'" in note for note in log.notes)
    assert run_child(path, "overwrite", "3", "9").returncode == 0
    assert_complete(read_log(path), 3)


def test_every_point_is_exercised():
    exercised = {plan.partition(":")[0] for plan in PLANS} | {"resume.folded", "resume.replaced"}
    assert exercised == set(POINTS)
