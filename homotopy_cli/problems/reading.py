"""One torch file -> its content, without running code: the zip, legacy and trusted readers."""

import io
import pickletools
import struct
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from homotopy_cli.errors import CheckpointError, first_line, typed
from homotopy_cli.problems.archives import Archive
from homotopy_cli.problems.globals import scan
from homotopy_cli.problems.legible import LegibleUnpickler

_AGAIN = "copy or download the file again; its size and checksum should match the origin's"


@dataclass(frozen=True)
class Content:
    """What a file holds; `stand_ins` are the classes that were not run."""

    value: Any
    stand_ins: tuple[str, ...] = ()
    torchscript: bool = False


def read_zip(path: Path) -> Content:
    """A torch zip archive: weights_only first, else legibly. Checksums are compared.

    Raises:
        CheckpointError: Truncated, damaged, a bomb, or a pickle that would run code.
    """
    with open(path, "rb") as file:
        archive = Archive(path, file)
        content = archive.read("data.pkl")
        refuse_acting(path, content)
        if not archive.is_torchscript:
            archive.verify()
            plain = _weights_only(path)
            if plain is not None:
                return plain
        if archive.entries.get("byteorder") and archive.read("byteorder") != b"little":
            raise CheckpointError(
                f"{path}: was written on a big-endian machine",
                hint="save the state_dict as safetensors there",
            )
        storages: dict[str, Tensor] = {}

        def storage(key: str) -> Tensor:
            if key not in storages:
                storages[key] = _bytes(archive.read(f"data/{key}"))
            return storages[key]

        value, refused = _legible(path, io.BytesIO(content), storage)
    return Content(value, refused, archive.is_torchscript)


def read_legacy(path: Path) -> Content:
    """torch.save before 1.6: five pickles, then the storages."""
    raw = path.read_bytes()
    file = io.BytesIO(raw)
    try:
        _magic, _protocol, _system, main, keys = (_one_pickle(file) for _ in range(5))
    except Exception as error:  # whatever a cut file makes of its opcodes
        raise _cut(path, len(raw)) from error
    refuse_acting(path, main)
    plain = _weights_only(path)
    if plain is not None:
        return plain
    try:
        places = _legacy_places(raw, file.tell(), _plain(keys).load(), main)
    except Exception as error:
        raise _cut(path, len(raw)) from error
    value, refused = _legible(path, io.BytesIO(main), lambda key: places[key])
    return Content(value, refused)


def read_pickle(path: Path) -> Content:
    """A pickle that torch.save did not write; only its tensors' containers are legible."""
    content = path.read_bytes()
    refuse_acting(path, content)
    plain = _weights_only(path)
    if plain is not None:
        return plain
    names = ", ".join(scan(content, path).names[:4]) or "nothing"
    raise CheckpointError(
        f"{path}: is a plain pickle, not written by torch.save (it names {names})",
        hint="torch.save(model.state_dict(), PATH) writes one that can be read safely",
    )


def read_trusted(path: Path) -> Content:
    """torch.load that runs whatever the pickle says: only by --trust-pickle.

    The current folder and the checkpoint's own are importable meanwhile, last in line.

    Raises:
        CheckpointError: A class cannot be imported, or loading failed.
    """
    with _importable(Path.cwd(), path.absolute().parent), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch repeats what --trust-pickle says
        try:
            return Content(torch.load(path, map_location="cpu", weights_only=False))
        except (ImportError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: needs code that cannot be imported here: {first_line(error, named=True)}",
                hint="PYTHONPATH=FOLDER_OF_THE_CODE "
                f"homotopy probe {typed(path)} --trust-pickle ...",
            ) from error
        except Exception as error:
            raise CheckpointError(
                f"{path}: loading the pickle failed: {first_line(error, named=True)}", hint=_AGAIN
            ) from error


def refuse_acting(path: Path, content: bytes) -> None:
    """Raise for a pickle that names a global which acts on the machine."""
    acting = scan(content, path).acting
    if acting:
        raise CheckpointError(
            f"{path}: refused: the pickle calls {', '.join(acting[:4])}, which would run code",
            hint="do not load this file; if you made it yourself, re-save its state_dict alone",
        )


def _weights_only(path: Path) -> Content | None:
    """torch's own safe reader; None where it refuses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Content(torch.load(path, map_location="cpu", weights_only=True))
    except Exception:  # half a dozen kinds; the legible reader finds the words
        return None


def _legible(path: Path, file: BinaryIO, storage: Any) -> tuple[Any, tuple[str, ...]]:
    reader = LegibleUnpickler(file, storage)
    try:
        return reader.load(), tuple(reader.refused)
    except CheckpointError as error:
        words = error.message.removeprefix(f"{path}: ")
        raise CheckpointError(f"{path}: {words}", hint=error.hint or _AGAIN) from error
    except MemoryError:
        raise
    except Exception as error:  # a malformed pickle may raise anything
        raise CheckpointError(
            f"{path}: damaged: its pickle cannot be read ({first_line(error, named=True)})",
            hint=_AGAIN,
        ) from error


def _bytes(raw: bytes) -> Tensor:
    """One storage as uint8; empty ones have no buffer."""
    if not raw:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)


def _legacy_places(raw: bytes, start: int, keys: Any, main: bytes) -> dict[str, Tensor]:
    """Key -> bytes of each storage: an int64 count of numbers, then the numbers."""
    sizes = _legacy_itemsizes(main)
    places, at = {}, start
    for key in keys:
        count = struct.unpack_from("<q", raw, at)[0]
        n_bytes = count * sizes[str(key)]
        at += 8
        if count < 0 or at + n_bytes > len(raw):
            raise EOFError(str(key))
        places[str(key)] = _bytes(raw[at : at + n_bytes])
        at += n_bytes
    return places


def _legacy_itemsizes(main: bytes) -> dict[str, int]:
    """Bytes per number of each storage, from the types the pickle names."""
    sizes: dict[str, int] = {}

    class Reader(LegibleUnpickler):
        def persistent_load(self, pid: Any) -> Any:
            dtype = getattr(pid[1], "dtype", None) if isinstance(pid, tuple) else None
            if isinstance(pid, tuple) and pid[0] == "storage":
                sizes[str(pid[2])] = dtype.itemsize if dtype is not None else 1
            return None

    Reader(io.BytesIO(main), lambda key: torch.empty(0, dtype=torch.uint8)).load()
    return sizes


def _plain(content: bytes) -> LegibleUnpickler:
    """A reader for a pickle without storages."""
    return LegibleUnpickler(io.BytesIO(content), lambda key: torch.empty(0, dtype=torch.uint8))


def _one_pickle(file: io.BytesIO) -> bytes:
    """The bytes of the pickle that starts here."""
    start = file.tell()
    for _ in pickletools.genops(file):
        pass
    end = file.tell()
    return file.getbuffer()[start:end].tobytes()


def _cut(path: Path, size: int) -> CheckpointError:
    return CheckpointError(
        f"{path}: truncated or damaged (legacy torch format, {size} bytes)", hint=_AGAIN
    )


@contextmanager
def _importable(*folders: Path) -> Iterator[None]:
    """Folders last on the import path, so that none can stand in for an installed package."""
    added = [str(folder) for folder in folders if str(folder) not in sys.path]
    sys.path.extend(added)
    try:
        yield
    finally:
        for entry in added:
            if entry in sys.path:
                sys.path.remove(entry)
