"""Mutated logs: a RunLog or one LogError, never another exception, never a hang."""

import json
import random
import time

import h5py
import numpy as np
import pytest
from runlog_cases import fill, finish, foreign_log, info

from homotopy_cli.errors import LogError
from homotopy_cli.runlog.journal import FRAME, frame
from homotopy_cli.runlog.reader import RunLog, read_log
from homotopy_cli.runlog.writer import RunWriter


def read_or_refuse(path) -> bool:
    """True if it was read. A RunLog must also hold together."""
    began = time.perf_counter()
    try:
        log = read_log(path)
    except LogError as error:
        assert "\n" not in error.message + error.hint
        assert len(error.message) < 600
        assert error.message.isprintable()
        return False
    finally:
        assert time.perf_counter() - began < 60
    assert isinstance(log, RunLog)
    assert all(len(values) == len(log.step) for values in log.steps.values())
    assert all(len(values) == len(log.probe_step) for values in log.probes.values())
    shape = (len(log.probe_step), len(log.layers))
    assert all(values.shape == shape for values in log.layer_values.values())
    assert all(len(values) == len(log.eval_step) for values in log.evals.values())
    assert len(log.layer_numel) == len(log.layer_kind) == len(log.layers)
    assert all(isinstance(note, str) and "\n" not in note for note in log.notes)
    return True


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """(run.h5, journal or None): a closed run, a live run, another program's log."""
    folder = tmp_path_factory.mktemp("originals")
    closed, live, foreign = (folder / name for name in ("closed.h5", "live.h5", "foreign.h5"))
    writer = RunWriter.create(closed, info())
    fill(writer, range(60))
    finish(writer, 60)
    writer = RunWriter.create(live, info())
    fill(writer, range(20))
    writer.fold()
    fill(writer, range(20, 40))
    writer._sink.journal.close()
    foreign_log(foreign, 40)
    journal = live.with_name("live.h5.journal")
    return [
        (closed.read_bytes(), None),
        (live.read_bytes(), journal.read_bytes()),
        (foreign.read_bytes(), None),
    ]


def mutated(data: bytes, chosen: random.Random) -> bytes:
    kind = chosen.randrange(5)
    damaged = bytearray(data)
    if kind == 0:
        return data[: chosen.randrange(len(data))]
    if kind == 1:
        for _ in range(chosen.choice((1, 4, 32))):
            damaged[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
    elif kind == 2:  # near the front: superblock, root group, headers
        for _ in range(chosen.choice((1, 2, 8))):
            damaged[chosen.randrange(min(4096, len(data)))] = chosen.randrange(256)
    elif kind == 3:
        at = chosen.randrange(len(data))
        damaged[at : at + chosen.randrange(1, 400)] = bytes(chosen.randrange(1, 400))
    else:
        at = chosen.randrange(len(data))
        damaged[at : at + 8] = chosen.choice((b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7))
    return bytes(damaged)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["closed", "live", "foreign"])
def test_damaged_bytes(tmp_path, originals, which):
    image, journal = originals[which]
    chosen = random.Random(which)
    path = tmp_path / "run.h5"
    outcomes = set()
    for _ in range(60):
        both = journal is not None and chosen.random() < 0.5
        path.write_bytes(image if both else mutated(image, chosen))
        if journal is not None:
            beside = mutated(journal, chosen) if both else journal
            path.with_name("run.h5.journal").write_bytes(beside)
        outcomes.add(read_or_refuse(path))
    assert True in outcomes


def test_crafted_journal_headers(tmp_path, originals):
    """Valid checksums around any JSON: refused, ignored, or read, but never a crash."""
    image, journal = originals[1]
    path = tmp_path / "run.h5"
    path.write_bytes(image)
    size = FRAME.size + FRAME.unpack_from(journal)[1]
    header = json.loads(journal[FRAME.size + 9 : size])
    odd = (None, -1, 2**70, 1.5, float("inf"), "", "a\nb", [], [1], ["a", "a"], {}, {"a": [2**70]})
    for key in header:
        for value in odd:
            text = json.dumps(header | {key: value}).encode()
            payload = bytes(9) + text
            path.with_name("run.h5.journal").write_bytes(frame(payload) + journal[size:])
            read_or_refuse(path)
    nested = bytes(9) + b"[" * 100_000
    path.with_name("run.h5.journal").write_bytes(frame(nested) + journal[size:])
    assert read_or_refuse(path)


def test_crafted_journal_events(tmp_path, originals):
    image, journal = originals[1]
    path = tmp_path / "run.h5"
    path.write_bytes(image)
    event = {"step": 1, "attempt": 0, "level": "info", "code": "X", "message": "m"}
    odd = (None, 2**70, float("inf"), [], {"a": 1}, "\x1b[31m\n")
    payloads = [
        bytes([4]) + (1000 + i).to_bytes(8, "little") + json.dumps(event | {key: value}).encode()
        for i, (key, value) in enumerate((key, value) for key in event for value in odd)
    ]
    path.with_name("run.h5.journal").write_bytes(journal + b"".join(map(frame, payloads)))
    assert read_or_refuse(path)
    for seen in read_log(path).events:
        assert isinstance(seen.step, int)
        assert isinstance(seen.code, str)
        assert isinstance(seen.message, str)


def replace_dataset(file: h5py.File, name: str, chosen: random.Random) -> None:
    old = file[name]
    values = old[()] if old.shape else np.array([1.0])
    if not isinstance(values, np.ndarray) or values.dtype == object:
        values = np.arange(3.0)
    del file[name]
    shaped = chosen.randrange(9)
    if shaped == 0:
        file[name] = values[: len(values) // 2] if values.ndim else values
    elif shaped == 1:
        file[name] = np.concatenate([values, values]) if values.ndim else values
    elif shaped == 2:
        file[name] = "a text"
    elif shaped == 3:
        file[name] = np.array(["a", "b"], dtype=object)
    elif shaped == 4:
        file.create_group(name)
    elif shaped == 5:
        file[name] = np.stack([values, values], -1)
    elif shaped == 6:
        file[name] = h5py.Empty("f8")
    elif shaped == 7:
        kind = np.dtype([("a", "f8"), ("b", "i4")])
        file[name] = np.zeros(len(values) if values.ndim else 1, kind)
    else:
        types = ("u1", "f2", "i8", ">f4", "c8", "bool")
        with np.errstate(all="ignore"):
            file[name] = np.nan_to_num(np.real(values)).astype(chosen.choice(types))


def test_missing_and_wrong_datasets(tmp_path, originals):
    chosen = random.Random(9)
    path = tmp_path / "run.h5"
    outcomes = set()
    for _ in range(100):
        path.write_bytes(originals[chosen.choice((0, 2))][0])
        with h5py.File(path, "r+") as file:
            names = []
            file.visititems(
                lambda name, item, out=names: (
                    out.append(name) if isinstance(item, h5py.Dataset) else None
                )
            )
            for name in chosen.sample(names, chosen.randrange(1, 4)):
                if chosen.random() < 0.3:
                    del file[name]
                else:
                    replace_dataset(file, name, chosen)
            if chosen.random() < 0.3:
                key = chosen.choice(list(file.attrs))
                file.attrs[key] = chosen.choice(([1, 2], 1.5, b"\xff\xfe", -3, "\x1b[31m", 2**62))
        outcomes.add(read_or_refuse(path))
    assert outcomes == {True, False}
