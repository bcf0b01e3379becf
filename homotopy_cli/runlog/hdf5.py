"""Open an HDF5 file that may come from anyone, be damaged, or be written at this moment.

The HDF5 library follows external links and reads raw bytes of other files if a file asks for
it, and a file of 59 kB can declare 8 TB. So: only hard links, no external or virtual storage,
no plugin filters, and no dataset larger than its file can justify.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import h5py
import numpy as np

from homotopy_cli.errors import LogError, typed
from homotopy_cli.runlog import foreign

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_BUILT_IN_FILTERS = {1, 2, 3, 32000}  # deflate, shuffle, fletcher32, lzf
_MAX_BYTES = 2**31  # per dataset: 268 million rows of f8
_MAX_STRINGS = 2**20
_SUSPICIOUS = 2**28, 200  # above 256 MiB, at most 200 times the bytes stored


@contextmanager
def open_log(path: Path, notes: list[str]) -> Iterator[h5py.File]:
    """Open a log for reading; what a reader should know is appended to `notes`.

    Raises:
        LogError: It cannot be opened, with the reason in one line.
    """
    check_bytes(path)
    with _opened(path, notes) as file:
        try:
            yield file
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
            raise LogError(
                f"{path}: damaged HDF5 file ({_one_line(error)})",
                hint="continue from the last checkpoint, or read it with h5ls to see what is left",
            ) from error


def _opened(path: Path, notes: list[str]) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except BlockingIOError:
        notes.append("being written by another process: the rows so far")
    except OSError as error:
        if "open for write" in str(error):
            return _unclosed(path, notes)
        raise _damaged(path, error) from error
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise LogError(
            f"{path}: is being written by another process and cannot be read now",
            hint="wait until it ends, then repeat the command",
        ) from error


def _unclosed(path: Path, notes: list[str]) -> h5py.File:
    """A file written with libver="latest" or in SWMR mode by a program that was killed."""
    try:
        file = h5py.File(path, "r", swmr=True)
    except OSError as error:
        raise LogError(
            f"{path}: was not closed by the program that wrote it",
            hint="copy it, then h5clear -s COPY.h5 and read the copy",
        ) from error
    notes.append("not closed by the program that wrote it: the rows it had flushed")
    return file


def _damaged(path: Path, error: Exception) -> LogError:
    return LogError(
        f"{path}: damaged HDF5 file ({_one_line(error)})",
        hint="continue from the last checkpoint, or read it with h5ls to see what is left",
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return "".join(c for c in text if c.isprintable())[:160] or type(error).__name__


def check_bytes(path: Path) -> None:
    """Say in words what the library would say in its own: absent, empty, foreign, cut off.

    Raises:
        LogError: It is one of these.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe would wait
            raise LogError(f"{path}: is not a regular file", hint="give the path of a run.h5")
        with open(path, "rb") as stream:
            head = stream.read(foreign.HEAD)
            size = os.fstat(stream.fileno()).st_size
    except FileNotFoundError:
        raise LogError(
            f"{path}: no such log", hint="homotopy train writes one; give its path"
        ) from None
    except IsADirectoryError:
        raise LogError(f"{path}: is a folder, not a log", hint=_inside(path)) from None
    except OSError as error:
        raise LogError(
            f"{path}: cannot be read: {error.strerror}", hint="check its permissions"
        ) from error
    if not head:
        raise LogError(f"{path}: empty file (0 bytes): its writer never completed it", hint=_AGAIN)
    if not head.startswith(SIGNATURE):
        words, hint = foreign.in_words(path, head)
        raise LogError(f"{path}: {words}", hint=hint)
    stored = _stored_size(head)
    if stored is not None and stored > size:
        if size <= 96:
            raise LogError(
                f"{path}: never completed ({size} bytes there, {stored} stored in its header): "
                "its writer was killed before the first flush",
                hint=_AGAIN,
            )
        raise LogError(
            f"{path}: truncated ({size} bytes there, {stored} bytes stored in its header)",
            hint="copy it again from where it was made; a cut file cannot be completed",
        )


def _inside(folder: Path) -> str:
    """The next thing to type where a folder was given: a log in it, or below it."""
    found = next((p for glob in ("*.h5", "*/*.h5") for p in sorted(folder.glob(glob))), None)
    return f"try {typed(found)}" if found else "no log lies in it; homotopy train writes run.h5"


_AGAIN = "nothing can be recovered from it; run homotopy train again"


def _stored_size(head: bytes) -> int | None:
    """The end of file address in the superblock (HDF5 File Format Specification, II.A)."""
    version = head[8] if len(head) > 8 else 255
    layout = {0: (13, 24, 2), 1: (13, 28, 2), 2: (9, 12, 2), 3: (9, 12, 2)}.get(version)
    if layout is None:
        return None
    size_at, base_at, fields = layout
    size = head[size_at] if len(head) > size_at else 0
    start = base_at + fields * size
    if size not in (2, 4, 8) or len(head) < start + size:
        return None
    base = int.from_bytes(head[base_at : base_at + size], "little")
    return base + int.from_bytes(head[start : start + size], "little")


class SafeReader:
    """Read the schema's names from an open file, and nothing else."""

    def __init__(self, file: h5py.File, path: Path, notes: list[str]) -> None:
        self.file = file
        self.path = path
        self.notes = notes

    def found(self, limit: int = 20) -> str:
        """Names at the root, for messages."""
        names = [n.decode("utf-8", "replace") for n in self.file.id]
        shown = ", ".join("".join(c for c in n if c.isprintable()) for n in names[:limit])
        return (shown + ", ..." if len(names) > limit else shown) or "nothing"

    def dataset(self, name: str) -> h5py.Dataset | None:
        """The dataset of that name; None if absent.

        Raises:
            LogError: It is refused.
        """
        parent = self.file.id
        *folders, last = name.split("/")
        for folder in folders:
            parent = self._member(parent, folder, name)
            if not isinstance(parent, h5py.h5g.GroupID):
                return None
        found = self._member(parent, last, name)
        if not isinstance(found, h5py.h5d.DatasetID):
            return None
        dataset = h5py.Dataset(found)
        self._check(dataset, name)
        return dataset

    def _member(self, parent: h5py.h5g.GroupID, part: str, name: str) -> object | None:
        key = part.encode()
        links = parent.links
        if not links.exists(key):
            return None
        if links.get_info(key).type != h5py.h5l.TYPE_HARD:
            raise self._refused(name, "is a link to somewhere else")
        return h5py.h5o.open(parent, key)

    def _check(self, dataset: h5py.Dataset, name: str) -> None:
        plist = dataset.id.get_create_plist()
        if plist.get_layout() == h5py.h5d.VIRTUAL:
            raise self._refused(name, "is a virtual dataset, which reads other files")
        if plist.get_external_count():
            raise self._refused(name, "keeps its values in another file (external storage)")
        filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
        if filters - _BUILT_IN_FILTERS:
            raise self._refused(name, f"needs filter plugins {sorted(filters - _BUILT_IN_FILTERS)}")
        declared = prod(dataset.shape or (0,)) * dataset.dtype.itemsize
        stored = dataset.id.get_storage_size()
        floor, ratio = _SUSPICIOUS
        if declared > _MAX_BYTES or (declared > floor and declared > ratio * stored):
            raise self._refused(name, f"declares {declared} bytes and stores {stored}")

    def _refused(self, name: str, why: str) -> LogError:
        return LogError(
            f"{self.path}: refused: /{name} {why}",
            hint="homotopy never writes such a file; do not trust where it came from",
        )

    def numbers(self, name: str, *, ndim: int = 1, kinds: str = "fiub") -> np.ndarray | None:
        """A numeric dataset's values; None, with a note, if its type or shape is another."""
        dataset = self.dataset(name)
        if dataset is None:
            return None
        if dataset.shape is None or dataset.dtype.kind not in kinds or dataset.ndim != ndim:
            self.notes.append(
                f"/{name} ignored: dtype {dataset.dtype}, shape {dataset.shape} do not fit"
            )
            return None
        return dataset[()]

    def strings(self, name: str) -> list[str] | None:
        """A 1-D string dataset's values; None, with a note, if it is none."""
        dataset = self.dataset(name)
        if dataset is None:
            return None
        textual = h5py.check_string_dtype(dataset.dtype) is not None
        if not textual or dataset.ndim != 1 or len(dataset) > _MAX_STRINGS:
            self.notes.append(f"/{name} ignored: not a list of strings")
            return None
        return [_decoded(value) for value in dataset[()]]

    def text(self, name: str) -> str | None:
        """A scalar string; None if it is absent or something else."""
        dataset = self.dataset(name)
        if dataset is None or dataset.shape != () or not h5py.check_string_dtype(dataset.dtype):
            return None
        return _decoded(dataset[()])

    def integer(self, name: str) -> int | None:
        dataset = self.dataset(name)
        if dataset is None or dataset.shape != () or dataset.dtype.kind not in "iu":
            return None
        return int(dataset[()])

    def attribute(self, name: str) -> str | int | None:
        """A scalar root attribute that is text or a whole number; None otherwise."""
        if name not in self.file.attrs:
            return None
        identifier = self.file.attrs.get_id(name)
        if identifier.shape != () or identifier.dtype.kind not in "iubSO":
            return None
        value = self.file.attrs[name]
        if isinstance(value, bytes | str):
            return _decoded(value)
        return int(value) if isinstance(value, int | np.integer | np.bool_) else None


def _decoded(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
