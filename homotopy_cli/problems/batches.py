"""Batch files: read without running code, kept as they are but for the dtype of floats."""

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from homotopy_cli.errors import CheckpointError, ProblemError, first_line, typed
from homotopy_cli.problems.archives import check_safetensors, sniff
from homotopy_cli.problems.forms import weights_inside
from homotopy_cli.problems.legible import Inert
from homotopy_cli.problems.nest import Batch, map_tensors, walk
from homotopy_cli.problems.reading import read_legacy, read_pickle, read_zip

_HINT = "torch.save((x, y), 'batch.pt'), or numpy.savez('batch.npz', x=x, y=y)"
_NUMPY = b"\x93NUMPY"


def cast_floats(
    batch: Batch, dtype: torch.dtype, device: torch.device | str | None = None
) -> Batch:
    """Floating tensors in `dtype`, all tensors on `device`; integers and bools keep their dtype."""
    return map_tensors(
        batch,
        lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None),
    )


def read_batches(paths: Iterable[str | Path] | str | Path) -> list[tuple[str, Batch]]:
    """(where it came from, batch) for every batch of every file.

    .pt: a tensor, tuple, dict or nest of them is one batch; a *list* of tuples or dicts is as
    many batches. .npz and .safetensors: arrays x and y are the tuple (x, y), arrays without
    names (`arr_0`, ...) a tuple, others a dict. Files are recognised by content.

    Raises:
        ProblemError: Missing, damaged, or without tensors; a pickle that needs code is refused.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found: list[tuple[str, Batch]] = []
    for path in given:
        found += _file(Path(path))
    return found


def _file(path: Path) -> list[tuple[str, Batch]]:
    try:
        content = _content(path)
    except CheckpointError as error:
        words = error.message.replace("a checkpoint", "a batch file")
        hint = _HINT if "batch file" in words or "pickle" in words else error.hint
        raise ProblemError(words, hint=hint) from error
    content = _opened(content, path)
    weights = weights_inside(content)
    if weights:
        raise ProblemError(
            f'{path}: holds weights ("{weights[0]}" and {len(weights) - 1} more), not a batch',
            hint=f"homotopy probe {typed(path)} measures them; a batch: {_HINT}",
        )
    if isinstance(content, list) and content and not any(isinstance(c, Tensor) for c in content):
        batches = [(f"{path}[{i}]", batch) for i, batch in enumerate(content)]
    else:
        batches = [(str(path), content)]
    for source, batch in batches:
        if not any(True for _ in walk(batch)):
            raise ProblemError(f"{source}: holds no tensor to measure on", hint=_HINT)
    return batches


def _content(path: Path) -> Any:
    if path.is_dir():
        raise ProblemError(f"{path}: is a folder, not a batch file", hint=_HINT)
    if path.is_file():
        with open(path, "rb") as file:
            if file.read(len(_NUMPY)) == _NUMPY:
                return _array(np.load(path, allow_pickle=False), path)
    kind = sniff(path)
    if kind == "safetensors":
        check_safetensors(path)
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return _named({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    if kind == "zip":
        return _npz(path) if _is_npz(path) else read_zip(path).value
    return (read_legacy if kind == "legacy" else read_pickle)(path).value


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def _npz(path: Path) -> Any:
    """Arrays without pickle; what they declare is not compared with a limit, it is the user's."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return _named({name: _array(file[name], f"{path}: {name}") for name in file.files})
    except (ValueError, zipfile.BadZipFile, OSError, EOFError) as error:
        said = first_line(error)
        words = "holds Python objects, not numbers" if "pickle" in said else f"damaged ({said})"
        raise ProblemError(f"{path}: {words}", hint=_HINT) from error


def _array(array: np.ndarray, place: object) -> Tensor:
    """A tensor of the same numbers; byte order and layout made torch's own."""
    if array.dtype.kind not in "biufc":
        raise ProblemError(f"{place}: dtype {array.dtype} is not numbers", hint=_HINT)
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    return torch.from_numpy(native if native.flags.writeable else native.copy()).reshape(
        array.shape
    )


def _named(tensors: Mapping[str, Tensor]) -> Batch:
    """(x, y) for arrays of these names, a tuple for unnamed ones, else a dict."""
    lower = {name.lower(): tensor for name, tensor in tensors.items()}
    if lower.keys() == {"x", "y"} and len(tensors) == 2:
        return lower["x"], lower["y"]
    numbered = [f"arr_{i}" for i in range(len(tensors))]
    if set(tensors) == set(numbered):
        return tuple(tensors[name] for name in numbered)
    return dict(tensors)


def _opened(content: Any, path: Path) -> Any:
    """The content with dict-like objects (a tokenizer's BatchEncoding) as dicts; others refused."""
    if isinstance(content, Inert):
        data = content.attributes.get("data") or content.__dict__.get("items")
        if isinstance(data, Mapping):
            return _opened(dict(data), path)
        raise ProblemError(
            f"{path}: holds an object of class {content.path}, which is not read without code",
            hint=_HINT,
        )
    if isinstance(content, Mapping):
        return {key: _opened(value, path) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_opened(value, path) for value in content)
    return content
