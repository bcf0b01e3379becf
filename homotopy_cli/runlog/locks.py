"""Who writes: one process at a time, by flock on the journal; HDF5's own lock is respected."""

import errno
import fcntl
import os
from pathlib import Path

from homotopy_cli.errors import LogError
from homotopy_cli.runlog.journal import journal_path

_HELD = (errno.EWOULDBLOCK, errno.EACCES)
# NFS without a lock daemon and some FUSE file systems: then nobody can lock, nobody is refused.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)


def being_written(path: Path) -> LogError:
    return LogError(
        f"{path}: is being written by another process",
        hint="wait until it ends, or write elsewhere with --out OTHER.h5",
    )


def acquire(fd: int, log: Path) -> bool:
    """Lock a journal for this process; false where the file system has no locks.

    Raises:
        LogError: Another process holds it.
    """
    return _flock(fd, fcntl.LOCK_EX, log)


def open_locked(journal: Path, log: Path, *, create: bool) -> int | None:
    """Open a journal for appending and lock it; None if it does not exist and may not be made.

    Raises:
        LogError: Another process holds it.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        try:
            fd = os.open(journal, flags | (os.O_CREAT if create else 0), 0o666)
        except FileNotFoundError:
            if create:
                raise
            return None
        try:
            acquire(fd, log)
            # A writer that closed or replaced its journal in between leaves us an orphan.
            if os.path.samestat(os.fstat(fd), os.stat(journal)):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def refuse_if_held(log: Path) -> None:
    """Refuse a run.h5 that some HDF5 program holds open for writing. Reads nothing of it.

    Raises:
        LogError: It is held.
    """
    try:
        fd = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _flock(fd, fcntl.LOCK_SH, log)
    finally:
        os.close(fd)


def writer_is_gone(log: Path) -> bool:
    """Whether a journal is there and nobody holds it. Asks for the lock, for a moment: not often.

    False where there is no journal, where it cannot be opened, or where nothing can be locked.
    """
    try:
        fd = os.open(journal_path(log), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _flock(fd, fcntl.LOCK_SH, log)
    except LogError:
        return False
    finally:
        os.close(fd)


def _flock(fd: int, how: int, log: Path) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise being_written(log) from None
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True
