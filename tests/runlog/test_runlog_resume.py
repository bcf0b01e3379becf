"""Attempts: what a resumed run keeps, hides and shows."""

import h5py
import numpy as np
import pytest
from runlog_cases import fill, finish, foreign_log, info, step

from homotopy_cli.errors import LogError, TrainingDiverged
from homotopy_cli.records import EvalRecord, EventRecord, StepRecord
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.runlog.writer import RunWriter


def again(i: int) -> StepRecord:
    """What the second attempt measures at step i: told apart by its loss."""
    return StepRecord(i, {"loss": 100.0 + i})


@pytest.fixture
def path(tmp_path):
    """Attempt 0 made steps 0..19 and failed; attempt 1 went back to step 12 and made 12..15."""
    path = tmp_path / "run.h5"
    writer = RunWriter.create(path, info())
    fill(writer, range(20))
    for at in (10, 12, 15, 20):
        writer.append_eval(EvalRecord(at, {"eval_loss": float(at)}))
    writer.append_event(EventRecord(3, "info", "EARLY", "stays"))
    writer.append_event(EventRecord(14, "warning", "LATE", "superseded"))
    writer.close("interrupted")
    with RunWriter.resume(path, step=12) as writer:
        assert writer.attempt == 1
        for i in range(12, 16):
            writer.append_step(again(i))
        writer.append_eval(EvalRecord(15, {"eval_loss": 115.0}))
    return path


def test_the_view_shows_the_newest_attempt(path):
    log = read_log(path)
    np.testing.assert_array_equal(log.step, np.arange(16))
    np.testing.assert_array_equal(log.attempt, [0] * 12 + [1] * 4)
    np.testing.assert_array_equal(log.steps["loss"][12:], [112, 113, 114, 115])
    np.testing.assert_array_equal(log.probe_step, [0, 5, 10])
    assert [s.step for s in log.spectra] == [0, 5, 10]
    # The evaluation after 12 steps is the state that attempt 1 started from.
    np.testing.assert_array_equal(log.eval_step, [10, 12, 15])
    np.testing.assert_array_equal(log.evals["eval_loss"], [10, 12, 115])
    assert [event.code for event in log.events] == ["EARLY", "RESUMED"]
    assert log.events[1].message == (
        "attempt 2 continues at step 12; 8 later rows of earlier attempts stay in the file, hidden"
    )
    assert log.hidden_rows == 8
    assert log.notes == ("8 rows of earlier attempts hidden: resumed at step 12",)
    assert log.attrs["attempts"] == 2
    assert log.attempt_start == (0, 12)
    assert log.status == "finished"


def test_the_file_keeps_every_row(path):
    with h5py.File(path, "r") as file:
        np.testing.assert_array_equal(file["step"][:], [*range(20), *range(12, 16)])
        np.testing.assert_array_equal(file["attempt"][:], [0] * 20 + [1] * 4)
        assert file.attrs["rows_committed"] == 24
        np.testing.assert_array_equal(file["provenance/attempt_start"][:], [0, 12])


def test_an_attempt_without_rows_still_hides_what_it_gave_up(path):
    writer = RunWriter.resume(path, step=5)
    np.testing.assert_array_equal(read_log(path).step, np.arange(5))
    writer.close("interrupted")
    log = read_log(path)
    np.testing.assert_array_equal(log.step, np.arange(5))
    assert log.hidden_rows == 19


def test_a_third_attempt_behind_the_second_hides_both(path):
    with RunWriter.resume(path, step=8) as writer:
        writer.append_step(StepRecord(8, {"loss": 8.0}))
    log = read_log(path)
    np.testing.assert_array_equal(log.step, np.arange(9))
    np.testing.assert_array_equal(log.attempt, [0] * 8 + [2])


def test_resuming_at_the_end_hides_nothing(path):
    with RunWriter.resume(path, step=16, info=info()) as writer:
        fill(writer, range(16, 21))
    log = read_log(path)
    np.testing.assert_array_equal(log.step, np.arange(21))
    assert log.events[-1].message == "attempt 3 continues at step 16"
    np.testing.assert_array_equal(log.probe_step, [0, 5, 10, 20])


def test_a_resumed_log_equals_one_that_was_never_interrupted(tmp_path):
    """Law: interrupting between two steps changes no measured value."""
    for name, stops in (("whole", ()), ("parts", (7, 15))):
        path = tmp_path / name / "run.h5"
        writer = RunWriter.create(path, info())
        at = 0
        for stop in (*stops, 25):
            fill(writer, range(at, stop))
            writer.close()
            at = stop
            if stop < 25:
                writer = RunWriter.resume(path, step=stop)
    whole, parts = (read_log(tmp_path / name / "run.h5") for name in ("whole", "parts"))
    for name in whole.steps:
        np.testing.assert_array_equal(parts.steps[name], whole.steps[name])
    for name in whole.layer_values:
        np.testing.assert_array_equal(parts.layer_values[name], whole.layer_values[name])


def test_leaving_by_an_exception_tells_the_status(tmp_path):
    for error, status in (
        (TrainingDiverged("loss is nan", step=3), "diverged"),
        (KeyboardInterrupt(), "interrupted"),
    ):
        path = tmp_path / status / "run.h5"
        with pytest.raises(type(error)), RunWriter.create(path, info()) as writer:
            writer.append_step(step(0))
            raise error
        assert read_log(path).status == status


def test_resuming_nothing_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(LogError, match="no log to resume") as caught:
        RunWriter.resume(tmp_path / "run.h5", step=0)
    assert caught.value.hint == "leave out --resume to start a new run there"
    assert list(tmp_path.iterdir()) == []


def test_resuming_with_other_layers_is_refused_and_changes_nothing(path):
    before = path.read_bytes()
    other = info(layers=("a",), layer_numel=(1,), layer_kind=("Linear",))
    with pytest.raises(LogError, match="holds 3 layers, the resumed model has 1 or others"):
        RunWriter.resume(path, step=3, info=other)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["run.h5"]


def test_resuming_a_newer_minor_version_is_refused(tmp_path):
    path = tmp_path / "run.h5"
    foreign_log(path, schema_version="1.10")
    with pytest.raises(LogError, match=r"schema 1\.10; resuming with 1\.0 would drop"):
        RunWriter.resume(path, step=3)


def test_resuming_a_log_of_another_program_works(tmp_path):
    path = tmp_path / "run.h5"
    foreign_log(path, 10, layers=3)
    writer = RunWriter.resume(path, step=10)
    fill(writer, range(10, 16))
    finish(writer, 16)
    log = read_log(path)
    np.testing.assert_array_equal(log.step, np.arange(16))
    np.testing.assert_array_equal(log.probes["kappa"], [*range(1, 11), 20, 30])
