"""torch.distributed.checkpoint folders: every rank's shards as whole tensors, in one process.

A DCP folder is a pickle (`.metadata`: which tensor lies in which bytes of which file) beside
files of torch.save records. torch's own reader runs that pickle; this one reads it with
stand-ins, and each record with weights_only.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from homotopy_cli.errors import CheckpointError, first_line
from homotopy_cli.problems.legible import Inert, LegibleUnpickler
from homotopy_cli.problems.reading import Content, refuse_acting

_AGAIN = "copy the whole folder again: every .distcp file and .metadata"


@dataclass(frozen=True)
class _Record:
    """Where one piece lies."""

    file: str
    offset: int
    length: int
    start: tuple[int, ...] | None  # of a tensor's piece; None for other values


def is_dcp(path: Path) -> bool:
    """The folder was written by torch.distributed.checkpoint."""
    return (path / ".metadata").is_file() or any(path.glob("*.distcp"))


def read_dcp(path: Path) -> Content:
    """The saved state as the nest of dicts that was given to `save`.

    Raises:
        CheckpointError: A file is missing or cut, a tensor is not covered by its pieces, or the
            metadata would run code.
    """
    tensors, places, records = _metadata(path)
    missing = sorted({r.file for each in records.values() for r in each if not _inside(path, r)})
    if missing:
        raise CheckpointError(
            f"{path}: {len(missing)} of its files are missing: {', '.join(missing[:3])}",
            hint=_AGAIN,
        )
    skipped: list[str] = []
    found: dict[str, Any] = {}
    for name, pieces in records.items():
        if name in tensors:
            found[name] = _whole(path, name, tensors[name], pieces)
            continue
        try:
            found[name] = _load(path, pieces[0])
        except CheckpointError:
            skipped.append(name)
    nest: dict[Any, Any] = {}
    for name, value in found.items():
        _place(nest, places.get(name) or (name,), value)
    return Content(_lists(nest), tuple(skipped))


def _metadata(
    path: Path,
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[Any, ...]], dict[str, list[_Record]]]:
    """(Shape of each tensor, place of each name in the nest, records of each name)."""
    file = path / ".metadata"
    if not file.is_file():
        raise CheckpointError(
            f"{path}: is a distributed checkpoint (DCP) folder without its .metadata",
            hint=_AGAIN + " (it is a hidden file; the save may not have finished)",
        )
    content = file.read_bytes()
    refuse_acting(file, content)
    try:
        read = LegibleUnpickler(io.BytesIO(content), lambda key: torch.empty(0)).load()
        fields = read.attributes
        tensors = {
            str(name): tuple(int(n) for n in entry.attributes["size"])
            for name, entry in fields["state_dict_metadata"].items()
            if "size" in entry.attributes
        }
        records: dict[str, list[_Record]] = {}
        for index, info in fields["storage_data"].items():
            where, lies = index.attributes, info.attributes
            if lies.get("transform_descriptors"):
                raise CheckpointError(
                    f"{path}: its records are transformed ({lies['transform_descriptors']})",
                    hint="save without compression: dcp.save(...) with the default writer",
                )
            start = where.get("offset")
            records.setdefault(str(where["fqn"]), []).append(
                _Record(
                    str(lies["relative_path"]),
                    int(lies["offset"]),
                    int(lies["length"]),
                    None if start is None else tuple(int(n) for n in start),
                )
            )
        places = {str(k): tuple(v) for k, v in (fields.get("planner_data") or {}).items()}
    except CheckpointError:
        raise
    except Exception as error:  # a malformed pickle may raise anything
        raise CheckpointError(
            f"{file}: damaged: cannot be read as the metadata of a distributed checkpoint",
            hint=_AGAIN,
        ) from error
    return tensors, places, records


def _inside(path: Path, record: _Record) -> bool:
    """The record's file is a plain name in the folder."""
    plain = Path(record.file).name == record.file
    if not plain:
        raise CheckpointError(
            f"{path}: refused: the file {record.file!r} lies outside the folder",
            hint="a distributed checkpoint's files lie beside its .metadata",
        )
    return (path / record.file).is_file()


def _whole(path: Path, name: str, size: tuple[int, ...], pieces: list[_Record]) -> Tensor:
    """One tensor from its pieces, which must cover it exactly."""
    whole: Tensor | None = None
    covered = 0
    for record in pieces:
        piece = _load(path, record)
        start = record.start or (0,) * len(size)
        if not isinstance(piece, Tensor) or piece.dim() != len(size) or len(start) != len(size):
            raise CheckpointError(f"{path}: the record of {name} is no piece of it", hint=_AGAIN)
        if whole is None:
            whole = torch.empty(size, dtype=piece.dtype)
        target = whole
        for axis, (begin, length) in enumerate(zip(start, piece.shape, strict=True)):
            if begin < 0 or begin + length > size[axis]:
                raise CheckpointError(
                    f"{path}: a piece of {name} at {list(start)} reaches beyond {list(size)}",
                    hint=_AGAIN,
                )
            target = target.narrow(axis, begin, length)
        target.copy_(piece)
        covered += piece.numel()
    if whole is None or covered != whole.numel():
        raise CheckpointError(
            f"{path}: {name} of shape {list(size)} is not whole: its pieces hold {covered} numbers",
            hint=_AGAIN,
        )
    return whole


def _load(path: Path, record: _Record) -> Any:
    """One torch.save record, without running code."""
    file = path / record.file
    with open(file, "rb") as opened:
        opened.seek(record.offset)
        content = opened.read(record.length)
    if len(content) < record.length:
        raise CheckpointError(
            f"{file}: truncated: {file.stat().st_size} bytes there, "
            f"{record.offset + record.length} promised",
            hint=_AGAIN,
        )
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # half a dozen kinds
        said = first_line(error)[:80]
        raise CheckpointError(f"{file}: a record cannot be read ({said})", hint=_AGAIN) from error


def _place(nest: dict[Any, Any], place: tuple[Any, ...], value: Any) -> None:
    """Put a value at its place; positions in lists stay as integer keys until the end."""
    at: Any = nest
    for key in place[:-1]:
        at = at.setdefault(key, {})
        if not isinstance(at, Mapping) or isinstance(at, Inert):
            return
    at[place[-1]] = value


def _lists(nest: Any) -> Any:
    """The nest with its lists, and an optimizer's state under numbers, which DCP makes texts."""
    if type(nest) is not dict:
        return nest
    made = {key: _lists(value) for key, value in nest.items()}
    if made and all(isinstance(key, int) for key in made):
        return [made[key] for key in sorted(made)]
    state = made.get("state")
    if "param_groups" in made and isinstance(state, dict) and all(k.isdigit() for k in state):
        made["state"] = {int(key): value for key, value in state.items()}
    return made
