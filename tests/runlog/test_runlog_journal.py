"""The journal's bytes: torn tails, flipped bits, crafted damage."""

import json
import os
import random
import time

import numpy as np
import pytest
from runlog_cases import fill, info, loss, step

from homotopy_cli.errors import LogError
from homotopy_cli.runlog.journal import FRAME, MAGIC, Scan, frame
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.runlog.writer import RunWriter


@pytest.fixture
def killed(tmp_path):
    """A run as a kill leaves it: run.h5 without rows, and a journal with 12."""
    path = tmp_path / "run.h5"
    writer = RunWriter.create(path, info())
    fill(writer, range(12))
    writer._sink.journal.close()  # what the end of the process does to the lock
    return path


def journal_of(path):
    return path.with_name("run.h5.journal")


def frame_ends(data: bytes) -> list[int]:
    ends, offset = [], 0
    while offset < len(data):
        offset += FRAME.size + FRAME.unpack_from(data, offset)[1]
        ends.append(offset)
    return ends


def test_a_tail_torn_at_any_byte_costs_that_record_alone(killed):
    journal = journal_of(killed)
    data = journal.read_bytes()
    *_, before, end = frame_ends(data)
    assert end == len(data)
    for cut in range(before, end):
        journal.write_bytes(data[:cut])
        log = read_log(killed)
        np.testing.assert_array_equal(log.step, np.arange(11))
        assert log.notes[0] == "live or interrupted: 11 rows from the journal"
        torn = f"journal: torn last record ignored ({cut - before} bytes)"
        assert log.notes[1:] == ((torn,) if cut > before else ())


def test_resume_drops_the_torn_tail(killed):
    journal = journal_of(killed)
    journal.write_bytes(journal.read_bytes()[:-3])
    with RunWriter.resume(killed, step=11) as writer:
        fill(writer, range(11, 14))
    log = read_log(killed)
    np.testing.assert_array_equal(log.step, np.arange(14))
    np.testing.assert_array_equal(log.steps["loss"], [loss(i) for i in range(14)])


def flipped(data: bytes, chosen: random.Random, start: int) -> bytes:
    damaged = bytearray(data)
    damaged[chosen.randrange(start, len(data))] ^= 1 << chosen.randrange(8)
    return bytes(damaged)


def test_no_flipped_bit_goes_unnoticed(killed):
    data = journal_of(killed).read_bytes()
    whole = [bytes(payload) for payload in Scan(data)]
    chosen = random.Random(0)
    for _ in range(2000):
        scan = Scan(flipped(data, chosen, 0))
        found = [bytes(payload) for payload in scan]
        assert scan.damaged or scan.torn
        # the damaged record is gone, every other one is there, none is altered
        assert len(found) == len(whole) - 1
        assert set(found) < set(whole)


def test_a_reader_is_told_of_a_flipped_bit(killed):
    journal = journal_of(killed)
    data = journal.read_bytes()
    chosen = random.Random(1)
    for _ in range(40):
        journal.write_bytes(flipped(data, chosen, frame_ends(data)[0]))
        log = read_log(killed)
        told = " ".join(log.notes)
        assert "1 damaged places skipped" in told or "torn last record" in told
        assert len(log.step) + len(log.probe_step) + len(log.spectra) == 12 + 3 + 3 - 1
        np.testing.assert_array_equal(log.steps["loss"], [loss(i) for i in log.step])


def test_a_flipped_bit_in_the_header_leaves_run_h5_readable(killed):
    journal = journal_of(killed)
    data = bytearray(journal.read_bytes())
    data[40] ^= 1
    journal.write_bytes(data)
    log = read_log(killed)
    assert len(log.step) == 0
    assert any("run.h5.journal: no readable header, ignored" in note for note in log.notes)


def test_the_journal_alone_rebuilds_the_run(killed):
    killed.unlink()
    log = read_log(killed)
    np.testing.assert_array_equal(log.step, np.arange(12))
    assert log.provenance["recipe_source"].startswith("model:")
    assert log.layers == ("embed", "block.0.attn", "head")
    assert log.notes == (
        "live or interrupted: 12 rows from the journal",
        "run.h5 is missing: rebuilt from its journal alone",
    )


def test_a_damaged_run_h5_is_rebuilt_from_a_complete_journal(killed):
    killed.write_bytes(killed.read_bytes()[:900])
    log = read_log(killed)
    np.testing.assert_array_equal(log.step, np.arange(12))
    assert any(
        note.startswith("truncated (900 bytes there") and "rebuilt from the journal" in note
        for note in log.notes
    )


def test_a_journal_of_other_columns_is_read_by_name(killed):
    """A newer minor version may have more columns, in another order."""
    journal = journal_of(killed)
    data = journal.read_bytes()
    header = data[FRAME.size : frame_ends(data)[0]]
    swapped = header.replace(b'"loss","lr","schedule_lr"', b'"grok","lr","loss"')
    assert swapped != header
    journal.write_bytes(frame(swapped) + data[frame_ends(data)[0] :])
    log = read_log(killed)
    np.testing.assert_array_equal(log.steps["lr"], 1e-3)
    assert np.isnan(log.steps["loss"]).all()


def test_half_a_record_is_cut_off_before_the_next_one(killed):
    """A short write that could not be undone at once must not hide what follows."""
    with RunWriter.resume(killed, step=12) as writer:
        journal = writer._sink.journal
        start = os.fstat(journal.fd).st_size
        os.write(journal.fd, b"HJR1 half a rec")
        journal._torn = start
        writer.append_step(step(12))
        log = read_log(killed)
        assert log.step[-1] == 12
        assert not any("damaged" in note for note in log.notes)


def test_a_crafted_journal_cannot_make_the_search_slow():
    """Every fourth byte a magic whose length spans the file: quadratic without a bound."""
    hostile = MAGIC + (2**21).to_bytes(4, "little") + MAGIC * 2**19
    began = time.perf_counter()
    scan = Scan(hostile)
    assert list(scan) == []
    assert scan.torn == len(hostile)
    assert time.perf_counter() - began < 10


def test_records_of_a_wrong_form_are_damage_not_a_crash(killed):
    """Valid checksums around nonsense: a crafted journal."""
    journal = journal_of(killed)
    data = journal.read_bytes()
    nonsense = [bytes([kind]) + (100 + kind).to_bytes(8, "little") + b"x" for kind in range(1, 9)]
    journal.write_bytes(data + b"".join(frame(payload) for payload in [b"", *nonsense]))
    log = read_log(killed)
    np.testing.assert_array_equal(log.step, np.arange(12))
    assert any("damaged places skipped" in note for note in log.notes)


def test_a_journal_of_a_newer_major_version_is_refused(killed):
    journal = journal_of(killed)
    data = journal.read_bytes()
    end = frame_ends(data)[0]
    header = data[FRAME.size : end].replace(b'"schema_version":"1.0"', b'"schema_version":"2.0"')
    journal.write_bytes(frame(header) + data[end:])
    with pytest.raises(LogError, match=r"schema 2\.0; this version reads up to 1\.x"):
        read_log(killed)
    with pytest.raises(LogError, match=r"schema 2\.0"):
        RunWriter.resume(killed, step=12)
    assert journal.read_bytes() == frame(header) + data[end:]


def test_a_journal_with_another_number_of_layers_is_refused(killed):
    journal = journal_of(killed)
    data = journal.read_bytes()
    end = frame_ends(data)[0]
    header = json.loads(data[FRAME.size + 9 : end])
    for key in ("layer", "layer_numel", "layer_kind"):
        header[key] = header[key][:2]
    payload = data[FRAME.size : FRAME.size + 9] + json.dumps(header).encode()
    journal.write_bytes(frame(payload))
    with pytest.raises(LogError, match="has 3 layers, its journal 2") as caught:
        read_log(killed)
    assert "move run.h5.journal away" in caught.value.hint
