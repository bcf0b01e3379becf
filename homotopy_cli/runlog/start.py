"""Begin or continue a log: who may write at this path, and from what state."""

import os
from dataclasses import replace
from pathlib import Path

from homotopy_cli.errors import LogError
from homotopy_cli.records import RunInfo
from homotopy_cli.runlog import faults, locks, schema
from homotopy_cli.runlog.buffers import Buffers
from homotopy_cli.runlog.content import limit_of, limits
from homotopy_cli.runlog.fold import build_image, replace_file, sync_folder
from homotopy_cli.runlog.hdf5 import SIGNATURE
from homotopy_cli.runlog.journal import Journal, journal_path
from homotopy_cli.runlog.load import load
from homotopy_cli.runlog.load_journal import header_payload, read_journal, version_numbers


def begin(path: Path, info: RunInfo, *, overwrite: bool) -> tuple[Buffers, Journal]:
    """Claim `path` for a new run; the journal's header is on disk and locked on return.

    Raises:
        LogError: Something exists there (unless `overwrite`), another process writes it, or the
            place is not writable. Whatever existed is unchanged.
    """
    journal = journal_path(path)
    _check_claim(path, journal, overwrite)
    buffers = Buffers(info, (0,))
    header = header_payload(info, (0,), 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = locks.open_locked(journal, path, create=True)
        faults.reach("create.locked")
        if os.fstat(fd).st_size and overwrite:
            return buffers, _swap(fd, journal, path, header)
        try:
            opened = Journal(fd, journal, header)
            faults.reach("create.header")
            if not overwrite:
                replace_file(path, build_image(buffers.content()))
            sync_folder(path.parent)
        except OSError:
            os.unlink(journal)  # ours, and empty until now
            os.close(fd)
            raise
    except OSError as error:
        raise unwritable(path, error) from error
    return buffers, opened


def _check_claim(path: Path, journal: Path, overwrite: bool) -> None:
    """Look, without creating or changing anything."""
    try:
        fd = locks.open_locked(journal, path, create=False)
        if fd is not None:
            os.close(fd)
        locks.refuse_if_held(path)
    except OSError as error:
        raise unwritable(path, error) from error
    # A journal without a header is a start that was killed at once: nothing to protect.
    exists = os.path.lexists(path) or read_journal(path, []) is not None
    if not exists:
        return
    if not overwrite:
        raise LogError(
            f"{path}: exists already",
            hint="--resume continues it, --overwrite replaces it, --out OTHER.h5 leaves it alone",
        )
    if os.path.lexists(path) and not _replaceable(path):
        raise LogError(
            f"{path}: is not an HDF5 file, so it is not replaced",
            hint="give another --out, or move that file away",
        )


def _replaceable(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as stream:
        head = stream.read(len(SIGNATURE))
    return head in (b"", SIGNATURE)


def proceed(path: Path, *, step: int, info: RunInfo | None) -> tuple[Buffers, Journal, int]:
    """Claim an existing log for its next attempt, which makes step `step` first.

    Returns:
        The rows until now, the fresh journal, and how many rows the new attempt supersedes.

    Raises:
        LogError: No log there, another process writes it, it cannot be read, or its layers are
            not those of `info`. Whatever existed is unchanged.
    """
    journal = journal_path(path)
    if not os.path.lexists(path) and not os.path.lexists(journal):
        raise LogError(
            f"{path}: no log to resume", hint="leave out --resume to start a new run there"
        )
    try:
        existed = os.path.lexists(journal)
        fd = locks.open_locked(journal, path, create=True)
        try:
            locks.refuse_if_held(path)
            buffers, superseded = _continued(path, step, info)
            replace_file(path, build_image(buffers.content()))
        except BaseException:
            if not existed:
                os.unlink(journal)
            os.close(fd)
            raise
        faults.reach("resume.folded")
        header = header_payload(buffers.info, buffers.attempt_start, buffers.seq)
        return buffers, _swap(fd, journal, path, header), superseded
    except OSError as error:
        raise unwritable(path, error) from error


def _continued(path: Path, step: int, info: RunInfo | None) -> tuple[Buffers, int]:
    loaded = load(path)
    version = loaded.attrs.get("schema_version", schema.SCHEMA_VERSION)
    if (version_numbers(version) or (1, 0)) > version_numbers(schema.SCHEMA_VERSION):
        raise LogError(
            f"{path}: written with log schema {version}; resuming with {schema.SCHEMA_VERSION} "
            "would drop its newer fields",
            hint="pip install --upgrade homotopy-cli",
        )
    content = loaded.content
    if info is not None and info.layers != content.info.layers:
        raise LogError(
            f"{path}: holds {len(content.info.layers)} layers, the resumed model has "
            f"{len(info.layers)} or others",
            hint="resume with the recipe that made the log, or write elsewhere with --out",
        )
    if not content.info.run_id and info is not None:
        content = replace(content, info=info)
    shown = content.step < limit_of(content.attempt, limits(content.attempt_start))
    superseded = int((shown & (content.step >= step)).sum())
    buffers = Buffers.from_content(
        replace(content, attempt_start=(*content.attempt_start, step), status="running")
    )
    return buffers, superseded


def _swap(old_fd: int, journal: Path, path: Path, header: bytes) -> Journal:
    """Put a new journal in the old one's place, locked before anyone can see it."""
    temporary = journal.with_name(journal.name + ".partial")
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(temporary, flags, 0o666)
    locks.acquire(fd, path)
    fresh = Journal(fd, journal, header)
    os.replace(temporary, journal)
    faults.reach("resume.replaced")
    sync_folder(journal.parent)
    os.close(old_fd)
    return fresh


def unwritable(path: Path, error: OSError) -> LogError:
    return LogError(
        f"{path}: cannot be written: {error.strerror or error}",
        hint="free space or give another --out",
    )
