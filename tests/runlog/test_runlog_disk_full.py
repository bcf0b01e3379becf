"""A disk that refuses: real errors from the kernel, by a limit on this process's file sizes."""

import resource
from contextlib import contextmanager

import numpy as np
import pytest
from runlog_cases import fill, info, loss

from homotopy_cli.errors import LogError
from homotopy_cli.runlog import sink
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.runlog.writer import RunWriter


@contextmanager
def files_up_to(size: int):
    """No file may grow beyond `size` bytes: a write up to it is short, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Run:
    """A writer with a clock of its own that hears its events."""

    def __init__(self, folder, **options) -> None:
        self.clock = Clock()
        self.events = []
        self.path = folder / "run.h5"
        self.journal = folder / "run.h5.journal"
        self.writer = RunWriter.create(
            self.path, info(), clock=self.clock, on_event=self.events.append, **options
        )

    @property
    def codes(self) -> list[str]:
        return [event.code for event in self.events]


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def assert_rows(path, n: int) -> None:
    log = read_log(path)
    np.testing.assert_array_equal(log.step, np.arange(n))
    np.testing.assert_array_equal(log.steps["loss"], [loss(i) for i in range(n)])


def test_training_goes_on_and_every_row_arrives_later(run):
    fill(run.writer, range(9))
    before = run.journal.stat().st_size
    fill(run.writer, range(9, 10))
    row = run.journal.stat().st_size - before
    fill(run.writer, range(10, 11))
    with files_up_to(run.journal.stat().st_size + 3 * row // 2):
        fill(run.writer, range(11, 30))  # one row fits, the second is torn
        assert_rows(run.path, 12)
        assert not any("torn" in note for note in read_log(run.path).notes)
    assert run.codes == ["LOG_WRITE_FAILED"]
    assert run.events[0].message == (
        f"{run.path}: File too large; training goes on, rows are kept in memory and retried"
    )
    fill(run.writer, range(30, 35))
    assert_rows(run.path, 12)  # not yet: the first retry is a second away
    run.clock.now = 2.0
    fill(run.writer, range(35, 36))
    assert_rows(run.path, 36)
    assert run.codes == ["LOG_WRITE_FAILED", "LOG_WRITE_RECOVERED"]
    run.writer.close()
    assert_rows(run.path, 36)
    assert [event.code for event in read_log(run.path).events] == run.codes


def test_retries_are_spaced_out(run):
    with files_up_to(run.journal.stat().st_size + 10):
        tried = []
        for second in range(200):
            run.clock.now = float(second)
            before = run.writer._sink.backoff._at
            fill(run.writer, range(second, second + 1), probe_every=1000)
            if run.writer._sink.backoff._at != before:
                tried.append(second)
    assert tried == [0, 1, 3, 7, 15, 31, 63, 123, 183]


def test_beyond_the_memory_for_records_a_fold_saves_the_rows(run, monkeypatch):
    monkeypatch.setattr(sink, "MAX_PENDING", 2000)
    fill(run.writer, range(5))
    with files_up_to(run.journal.stat().st_size + 10):
        fill(run.writer, range(5, 60))
        assert run.writer._sink.overflowed
        assert len(run.writer._sink._pending) == 0
    run.clock.now = 100.0
    fill(run.writer, range(60, 61))
    assert_rows(run.path, 61)
    assert run.codes == ["LOG_WRITE_FAILED", "LOG_WRITE_RECOVERED"]


def test_a_fold_that_fails_leaves_the_old_file_and_no_other(run):
    fill(run.writer, range(20))
    before = run.path.read_bytes()
    with files_up_to(20_000):  # above the journal, below the HDF5 image
        assert run.writer.fold() is False
        assert run.path.read_bytes() == before
        assert {p.name for p in run.path.parent.iterdir()} == {"run.h5", "run.h5.journal"}
        fill(run.writer, range(20, 25))
        assert_rows(run.path, 25)
    assert run.codes == ["LOG_WRITE_FAILED"]
    assert run.writer.fold() is True
    assert run.codes == ["LOG_WRITE_FAILED", "LOG_WRITE_RECOVERED"]
    assert_rows(run.path, 25)


def test_closing_on_a_full_disk_says_what_is_safe(run):
    fill(run.writer, range(20))
    with files_up_to(20_000):
        assert run.writer.close() is False
    assert run.codes == ["LOG_WRITE_FAILED", "LOG_NOT_CLOSED"]
    assert run.events[-1].message == (
        f"{run.path}: File too large; not closed, its journal holds every row"
    )
    assert_rows(run.path, 20)
    assert read_log(run.path).status == "finished"
    with RunWriter.resume(run.path, step=20) as writer:
        fill(writer, range(20, 22))
    assert_rows(run.path, 22)


def test_closing_with_rows_in_memory_says_which_are_lost(run):
    fill(run.writer, range(20), probe_every=1000)
    with files_up_to(run.journal.stat().st_size):
        fill(run.writer, range(20, 25))
        assert run.writer.close("interrupted") is False
    assert run.events[-1].message.endswith("not closed, 5 rows are lost, those after step 19")
    assert (run.writer.unclosed, run.writer.lost_rows) == (run.events[-1].message, 5)
    assert_rows(run.path, 20)


def test_fail_on_request(tmp_path):
    run = Run(tmp_path, on_error="fail")
    fill(run.writer, range(3))
    with files_up_to(run.journal.stat().st_size), pytest.raises(LogError) as caught:
        fill(run.writer, range(3, 4))
    assert caught.value.message == f"{run.path}: cannot be written: File too large"
    assert caught.value.hint == "free space or give another --out"
    assert_rows(run.path, 3)


@pytest.mark.parametrize("size", [100, 10_000], ids=["no journal", "no image"])
def test_starting_on_a_full_disk_is_refused_and_leaves_nothing(tmp_path, size):
    with files_up_to(size), pytest.raises(LogError, match="cannot be written: File too large"):
        RunWriter.create(tmp_path / "run.h5", info())
    assert list(tmp_path.iterdir()) == []


def test_resuming_on_a_full_disk_is_refused_and_changes_nothing(run):
    fill(run.writer, range(20))
    run.writer.close()
    before = run.path.read_bytes()
    with files_up_to(10_000), pytest.raises(LogError, match="cannot be written: File too large"):
        RunWriter.resume(run.path, step=20)
    assert run.path.read_bytes() == before
    assert [p.name for p in run.path.parent.iterdir()] == ["run.h5"]
