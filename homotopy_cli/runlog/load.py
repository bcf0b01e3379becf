"""run.h5 and its journal, merged into one LogContent. Reads only; used by reader and resume."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from homotopy_cli.errors import LogError
from homotopy_cli.runlog import schema
from homotopy_cli.runlog.content import LogContent, join
from homotopy_cli.runlog.hdf5 import check_bytes
from homotopy_cli.runlog.integrity import Integrity, examine
from homotopy_cli.runlog.isolate import isolated
from homotopy_cli.runlog.load_file import FileContent, load_file
from homotopy_cli.runlog.load_journal import JournalFile, read_journal

_ATTEMPTS = 4  # each fold during a read costs one; folds are seconds apart


@dataclass(frozen=True)
class Loaded:
    """A log as read, with what a reader should be told about it."""

    content: LogContent
    attrs: dict[str, str | int]
    absent: frozenset[str] = frozenset()  # provenance entries that the file does not hold
    notes: tuple[str, ...] = ()


def load(path: Path) -> Loaded:
    """Read a log, its journal included.

    The journal is read first: a fold moves records from it into run.h5, so whoever reads in
    between sees some of them twice, and their numbers tell, rather than not at all.

    Raises:
        LogError: Neither can be read.
    """
    for attempt in range(_ATTEMPTS):
        notes: list[str] = []
        journal = read_journal(path, notes)
        file, error = _read_file(path)
        if journal is None:
            if file is None:
                raise error
            if file.attrs.get("closed") == 0:
                notes.append("not closed: newer rows may be in its journal, which is not here")
            return Loaded(file.content, file.attrs, file.absent, (*file.notes, *notes))
        merged, gap = _merged(journal, file, error)
        if not gap or attempt == _ATTEMPTS - 1:
            return merged
        time.sleep(0.05)  # probably a fold between the two reads
    raise AssertionError("unreachable")


def _read_file(path: Path) -> tuple[FileContent | None, LogError | None]:
    try:
        check_bytes(path)
        integrity = examine(path)
        if integrity is Integrity.INTACT:
            return load_file(path), None
        file = isolated(load_file, path)
        if integrity is Integrity.CHANGED:
            said = "changed since homotopy wrote it (its checksum differs): values may be damaged"
            file = replace(file, notes=(*file.notes, said))
        return file, None
    except LogError as error:
        return None, error


def _merged(
    journal: JournalFile, file: FileContent | None, error: LogError | None
) -> tuple[Loaded, int]:
    if file is not None and file.content.info.run_id == journal.info.run_id:
        return _continued(journal, file)
    replay = journal.replay(after=journal.seq)
    rows = replay.rows
    if file is not None:
        said = f"{journal.log.name} still holds run {file.content.info.run_id!r}, to be replaced"
    elif not _file_missing(error):
        if journal.seq or replay.lost:
            raise error
        said = error.message.removeprefix(f"{journal.log}: ") + "; rebuilt from the journal alone"
    else:
        said = f"{journal.log.name} is missing: rebuilt from its journal alone"
        if journal.seq:
            said += f", without the {journal.seq} records before it"
    notes = (_live(rows.n_rows), said, *replay.notes)
    return Loaded(rows, _attributes(rows), frozenset(), notes), replay.gap


def _file_missing(error: LogError | None) -> bool:
    return error is not None and isinstance(error.__context__, FileNotFoundError)


def _continued(journal: JournalFile, file: FileContent) -> tuple[Loaded, int]:
    replay = journal.replay(after=file.content.seq)
    rows = replay.rows
    if file.content.closed and rows.seq == file.content.seq:  # killed while closing
        return Loaded(file.content, file.attrs, file.absent, file.notes), 0
    count = len(file.content.info.layers)
    if len(rows.info.layers) != count:
        raise LogError(
            f"{journal.log}: has {count} layers, its journal {len(rows.info.layers)}",
            hint=f"one of them is damaged: move {journal.path.name} away to read the other",
        )
    # the journal's facts about the run: a checksum vouches for them
    content = replace(join(file.content, rows), closed=False)
    attrs = {**file.attrs, **_attributes(content)}
    told = (*file.notes, _live(rows.n_rows), *replay.notes)
    return Loaded(content, attrs, file.absent, told), replay.gap


def _live(rows: int) -> str:
    return f"live or interrupted: {rows} rows from the journal"


def _attributes(content: LogContent) -> dict[str, str | int]:
    return {
        "format": schema.FORMAT,
        "schema_version": schema.SCHEMA_VERSION,
        "run_id": content.info.run_id,
        "created_utc": content.info.created_utc,
        "rows_committed": content.n_rows,
        "closed": 0,
        "attempts": len(content.attempt_start),
        "status": content.status,
    }
