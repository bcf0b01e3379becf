"""torch.export archives (.pt2): the weights by their own table; the program is not run."""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from homotopy_cli.errors import CheckpointError
from homotopy_cli.problems.archives import Archive
from homotopy_cli.problems.entries import Parts, is_set, tensors_of

_FORMAT = "archive_format"  # since torch 2.8: says "pt2"
_OLD = "serialized_exported_program.json"  # before
_OLD_WEIGHTS = "serialized_state_dict.pt"
_TABLE = "_weights_config.json"  # data/weights/NAME_weights_config.json
# torch._export.serde.schema.ScalarType, by number.
_DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
}
_AGAIN = "copy or download the file again"
_RESAVE = "torch.save(program.state_dict, PATH) of the loaded program, and name that"


def read_exported(path: Path) -> Parts | None:
    """The weights of an exported program, under the names of the module it was made from.

    Returns:
        None where the zip is no torch.export archive; no other zip is looked into.

    Raises:
        CheckpointError: Damaged, or no weights inside.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return None  # the reader of archives says what is wrong
    if "data.pkl" in names or not names & {_FORMAT, _OLD}:
        return None
    state = _newer(path) if _FORMAT in names else _older(path)
    if not state:
        raise CheckpointError(f"{path}: is a torch.export archive without weights", hint=_RESAVE)
    note = f"torch.export archive: {len(state)} tensors read, its program was not run"
    return Parts("torch_export", {"": state}, notes=(note,))


def _newer(path: Path) -> dict[str, Tensor]:
    """Weights of the layout since torch 2.8."""
    with open(path, "rb") as file:
        archive = Archive(path, file, main=_FORMAT)
        archive.verify()
        return _tabled(archive)


def _tabled(archive: Archive) -> dict[str, Tensor]:
    """One entry of raw numbers for each weight, described by a JSON table."""
    state: dict[str, Tensor] = {}
    for name in archive.entries:
        if not name.endswith(_TABLE):
            continue
        folder = name.rpartition("/")[0]
        try:
            table = json.loads(archive.read(name))["config"]
            for weight, described in table.items():
                place = f"{folder}/{described['path_name']}"
                if described.get("use_pickle"):
                    state[str(weight)] = _tensor(archive.path, place, archive.read(place))
                else:
                    state[str(weight)] = _raw(archive.read(place), described["tensor_meta"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{archive.path}: damaged: {name} does not describe its weights ({error})",
                hint=_AGAIN,
            ) from error
    return state


def _raw(content: bytes, meta: Mapping[str, Any]) -> Tensor:
    """Numbers as the table's dtype, shape and strides say, within their bytes."""
    dtype = _DTYPES[meta["dtype"]]
    size = [int(s["as_int"]) for s in meta["sizes"]]
    stride = [int(s["as_int"]) for s in meta["strides"]]
    offset = int(meta["storage_offset"]["as_int"])
    if min([offset, *size, *stride], default=0) < 0:
        raise ValueError("a negative size")
    if 0 in size:
        return torch.empty(size, dtype=dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if (last + 1) * dtype.itemsize > len(content):
        raise ValueError(f"shape {size} reaches beyond {len(content)} bytes")
    flat = torch.frombuffer(bytearray(content), dtype=dtype)
    return flat.as_strided(size, stride, offset).clone()


def _older(path: Path) -> dict[str, Tensor]:
    """Weights of the layout before torch 2.8: one torch.save file of the whole state_dict."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(_OLD_WEIGHTS).compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(f"{path}: refused: it is compressed", hint=_RESAVE)
            content = archive.read(_OLD_WEIGHTS)
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(
            f"{path}: damaged: {_OLD_WEIGHTS} cannot be read", hint=_AGAIN
        ) from error
    held = _safe(path, _OLD_WEIGHTS, content)
    return tensors_of(held) if is_set(held) else {}


def _tensor(path: Path, place: str, content: bytes) -> Tensor:
    held = _safe(path, place, content)
    if not isinstance(held, Tensor):
        raise ValueError(f"{place} is no tensor")
    return held


def _safe(path: Path, place: str, content: bytes) -> Any:
    """An entry that torch.save wrote, read with weights_only."""
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # half a dozen kinds
        raise CheckpointError(
            f"{path}: {place} cannot be read without running code", hint=_RESAVE
        ) from error
