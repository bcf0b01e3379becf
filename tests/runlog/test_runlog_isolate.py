"""Intact files are known by their seal; doubtful ones are read where they can do no harm."""

import os
import signal
import threading

import h5py
import numpy as np
import pytest
from runlog_cases import fill, foreign_log, info

from homotopy_cli.errors import LogError
from homotopy_cli.runlog import isolate
from homotopy_cli.runlog.integrity import Integrity, examine
from homotopy_cli.runlog.isolate import isolated
from homotopy_cli.runlog.load_file import load_file
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.runlog.writer import RunWriter


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "run.h5"
    with RunWriter.create(path, info()) as writer:
        fill(writer, range(30))
    return path


def assert_same(first, second) -> None:
    assert vars(first).keys() == vars(second).keys()
    for name, value in vars(first).items():
        other = vars(second)[name]
        if isinstance(value, dict):
            assert value.keys() == other.keys()
            for key in value:
                np.testing.assert_array_equal(other[key], value[key])
        elif hasattr(value, "__dataclass_fields__"):
            assert_same(value, other)
        else:
            np.testing.assert_array_equal(other, value)


def test_a_file_as_written_is_intact_and_any_flipped_bit_is_seen(path):
    assert examine(path) is Integrity.INTACT
    data = path.read_bytes()
    for at in range(0, len(data), 997):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        try:
            assert examine(path) is not Integrity.INTACT
        except LogError as error:
            assert "a global heap without end" in error.message


def test_a_damaged_value_reads_with_a_warning(path):
    data = path.read_bytes()
    loss = np.arange(1, 31) ** -1.0
    at = data.index(loss.tobytes())
    path.write_bytes(data[: at + 70] + b"\xff" + data[at + 71 :])
    log = read_log(path)
    assert np.count_nonzero(log.steps["loss"] != loss) == 1
    assert log.notes == (
        "changed since homotopy wrote it (its checksum differs): values may be damaged",
    )


def test_a_file_that_someone_added_to_still_reads(path):
    with h5py.File(path, "r+") as file:
        file["mine"] = np.ones(3)
    assert len(read_log(path).step) == 30


def test_a_foreign_log_is_unsealed(tmp_path):
    foreign_log(tmp_path / "run.h5")
    assert examine(tmp_path / "run.h5") is Integrity.UNSEALED


def test_another_process_reads_the_same(path):
    assert_same(load_file(path), isolated(load_file, path))


def test_it_reads_the_same_beside_other_threads(path):
    """Forking from a process with threads must neither warn nor hang."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert_same(load_file(path), isolated(load_file, path))
    finally:
        stop.set()
        thread.join()


def test_a_heap_without_end_is_refused_at_once(tmp_path):
    """HDF5 2.0 does not come back from a free-space object of size 0 in a global heap."""
    path = tmp_path / "run.h5"
    foreign_log(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"GCOL") + 16
    while int.from_bytes(data[at : at + 2], "little"):
        at += 16 + (int.from_bytes(data[at + 8 : at + 16], "little") + 7) // 8 * 8
    data[at + 8 : at + 16] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(LogError) as caught:
        read_log(path)
    assert caught.value.message == f"{path}: damaged HDF5 file (a global heap without end)"


def crash(path):
    os.kill(os.getpid(), signal.SIGSEGV)


def loop(path):
    while True:
        pass


def sleep(path):
    signal.pause()


def swallow(path):
    return np.ones(2**33, "u1")


def stumble(path):
    raise RuntimeError("not foreseen")


def refuse(path):
    raise LogError(f"{path}: refused: because", hint="do not")


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (crash, "damaged HDF5 file (the HDF5 library crashed on it: SIGSEGV)"),
        (loop, "damaged HDF5 file (reading it does not end)"),
        (sleep, "damaged HDF5 file (reading it does not end)"),
        (swallow, "damaged HDF5 file (reading it takes too much memory)"),
        (stumble, "damaged HDF5 file (reading it failed)"),
        (refuse, "refused: because"),
    ],
)
def test_what_happens_there_is_one_line_here(path, monkeypatch, read, words):
    monkeypatch.setattr(isolate, "CPU_SECONDS", 1)
    monkeypatch.setattr(isolate, "WALL_SECONDS", 3 if read is sleep else 60)
    with pytest.raises(LogError) as caught:
        isolated(read, path)
    assert caught.value.message == f"{path}: {words}"
    assert caught.value.hint
