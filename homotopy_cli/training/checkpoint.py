"""run.pt: everything a run depends on, as plain tensors and numbers, written atomically.

The file loads with `torch.load(path, weights_only=True)` and explains itself:

    format "homotopy-checkpoint", version 1
    step          optimizer steps done; the next step's index, and the data position
    model, optimizer, scheduler, probe    state dicts (probe: the warm vectors)
    loop          spike detectors, first loss, counters that rows and events depend on
    rng           torch, Python and NumPy generators, and the device's own
    recipe        resolved recipe, JSON; recipe_source its exact text; recipe_dir the folder
                  its relative paths start from, relative to the checkpoint's own folder
    n_params, loss

Writing: temporary file in the same folder, flush, fsync, os.replace, fsync of the folder.
A kill at any moment leaves the old file or the new one, never a part of either.
"""

import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from homotopy_cli.errors import CheckpointError, first_line
from homotopy_cli.problems.adapters import FORMAT, VERSION

_NEEDED = ("step", "model", "optimizer", "scheduler", "rng", "recipe")


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` to `path` atomically; the former file survives any failure.

    Args:
        path: The checkpoint, in a folder that exists.
        content: The keys of the module docstring, `format` and `version` excepted. Values are
            made plain by `plain`.

    Raises:
        CheckpointError: The disk is full or the folder went away; `path` is as it was.
        TypeError: A value that plain tensors and primitives cannot express.
    """
    payload = {"format": FORMAT, "version": VERSION, **plain(content)}
    temporary = path.with_name(f".{path.name}.tmp")  # one name: a kill leaves one file at most
    try:
        with open(temporary, "wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's zip writer wraps ENOSPC in RuntimeError
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path}: could not be written ({_reason(error)}); the checkpoint before it is intact",
            hint="free some space, then the same command with --resume",
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a run.pt, on the CPU.

    Raises:
        CheckpointError: Missing, unreadable, of another kind, or of a newer version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: no such checkpoint", hint="start without --resume"
        ) from error
    except Exception as error:  # torch raises half a dozen kinds for broken files
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({_reason(error)})",
            hint="restore the file from a backup, or start again with --overwrite",
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: is not a checkpoint of homotopy train",
            hint="--resume continues only what homotopy train wrote",
        )
    if content["version"] > VERSION:
        raise CheckpointError(
            f"{path}: checkpoint version {content['version']}, this program reads <= {VERSION}",
            hint="pip install --upgrade homotopy-cli",
        )
    missing = [name for name in _NEEDED if name not in content]
    if missing:
        raise CheckpointError(
            f"{path}: lacks {', '.join(missing)}", hint="start again with --overwrite"
        )
    return content


def plain(value: Any, *, where: str = "checkpoint", copies: dict[Any, Any] | None = None) -> Any:
    """`value` as tensors, dicts, lists, tuples, strings, numbers, None: all weights_only reads.

    Tensors of a device become CPU tensors, so that any machine reads them; tied ones stay one
    tensor (`copies` remembers them). NumPy arrays become tensors and NumPy scalars numbers; a
    torch.device becomes its string.

    Raises:
        TypeError: Anything else, with its place.
    """
    copies = {} if copies is None else copies
    if isinstance(value, torch.Tensor):
        return _on_cpu(value.detach(), copies)
    if value is None or type(value) in (bool, int, float, str, bytes, torch.dtype):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, bool | int | float | str):  # subclasses: enums, str subclasses
        return next(kind(value) for kind in (bool, int, float, str) if isinstance(value, kind))
    if isinstance(value, Mapping):
        return {
            plain(key, where=where): plain(item, where=f"{where}.{key}", copies=copies)
            for key, item in value.items()
        }
    if isinstance(value, Sequence | set | frozenset):
        items = [plain(item, where=f"{where}[{i}]", copies=copies) for i, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    raise TypeError(f"{where}: {type(value).__name__} cannot be kept in a checkpoint")


def _on_cpu(tensor: torch.Tensor, copies: dict[Any, Any]) -> torch.Tensor:
    """The tensor itself, or its one CPU copy."""
    if tensor.device.type == "cpu":
        return tensor
    key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
    if key not in copies:
        copies[key] = tensor.cpu()
    return copies[key]


def rng_state(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state of every global generator and of the device's own, plain."""
    device = torch.device(device)
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
        **({"mps": [torch.mps.get_rng_state()]} if device.type == "mps" else {}),
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
    }


def restore_rng(state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
    """Set every global generator to `rng_state()`'s result, and the device's where it has one."""
    device = torch.device(device)
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"]:
        torch.cuda.set_rng_state(state["cuda"][0], device)
    if device.type == "mps" and state.get("mps"):
        torch.mps.set_rng_state(state["mps"][0])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))


def _reason(error: Exception) -> str:
    """The error's first line, or its kind where it has no text (an empty file's EOFError)."""
    return getattr(error, "strerror", None) or first_line(error)


def _sync_folder(folder: Path) -> None:
    """fsync the folder, so that the rename itself is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
