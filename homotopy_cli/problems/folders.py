"""safetensors files, and folders: shards with an index, or one file of weights inside."""

import json
from collections.abc import Callable
from pathlib import Path

import safetensors
from torch import Tensor

from homotopy_cli.errors import CheckpointError, first_line, typed
from homotopy_cli.problems.archives import check_safetensors
from homotopy_cli.problems.entries import Parts

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE = (
    "model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.safetensors",
    "adapter_model.safetensors",
)
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def read_safetensors(path: Path) -> Parts:
    """One safetensors file, whatever its name."""
    metadata = check_safetensors(path)
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{path}: damaged safetensors file ({first_line(error)})",
            hint="copy or download the file again",
        ) from error
    if not state:
        raise CheckpointError(f"{path}: holds no tensor", hint="name a file with weights")
    return Parts("safetensors", {"": state}, extra=dict(metadata))


def read_folder(path: Path, read_file: Callable[[Path], Parts]) -> Parts:
    """A folder of shards with an index, or with one known file of weights.

    Raises:
        CheckpointError: A shard is missing, or the folder is of another kind, in words.
    """
    index = next((path / name for name in _INDEXES if (path / name).is_file()), None)
    if index is None:
        found = sorted(path.glob("*.index.json"))
        index = found[0] if found else None
    if index is not None:
        return _sharded(path, index, read_file)
    single = next((path / name for name in _SINGLE if (path / name).is_file()), None)
    if single is not None:
        parts = read_file(single)
        parts.notes = (f"read {single.name} of the folder", *parts.notes)
        return parts
    raise _not_a_checkpoint(path)


def _sharded(path: Path, index: Path, read_file: Callable[[Path], Parts]) -> Parts:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {str(name): str(file) for name, file in places.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index}: is not an index of shards: no weight_map in it",
            hint="copy or download the folder again",
        ) from error
    state: dict[str, Tensor] = {}
    shards = sorted(set(names.values()))
    for shard in shards:
        if Path(shard).name != shard or shard in ("", ".", ".."):
            raise CheckpointError(
                f"{index}: refused: the shard {shard!r} lies outside the folder",
                hint="shards are plain file names beside the index",
            )
    missing = [shard for shard in shards if not (path / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"{path}: {len(missing)} of {len(shards)} shards missing: {', '.join(missing[:3])}",
            hint="copy or download the missing files",
        )
    for shard in shards:
        held = next(iter(read_file(path / shard).sets.values()))
        wanted = [name for name, file in names.items() if file == shard]
        absent = [name for name in wanted if name not in held]
        if absent:
            raise CheckpointError(
                f'{path / shard}: lacks "{absent[0]}", which {index.name} says is there',
                hint="copy or download the folder again",
            )
        state.update({name: held[name] for name in wanted})
    return Parts("sharded", {"": state}, notes=(f"read {len(shards)} shards by {index.name}",))


def _not_a_checkpoint(path: Path) -> CheckpointError:
    """What the folder is instead, and what to do."""
    names = sorted(p.name for p in path.iterdir())
    if any(name.startswith(("zero_pp_rank", "bf16_zero_pp_rank", "global_step")) for name in names):
        return CheckpointError(
            f"{path}: is a DeepSpeed ZeRO folder: each file holds a shard of the weights",
            hint=f"python {path}/zero_to_fp32.py {path} whole.pt, then name whole.pt",
        )
    weights = [name for name in names if name.endswith(_WEIGHTS)]
    if weights:
        return CheckpointError(
            f"{path}: is a folder with {len(weights)} files that may hold weights",
            hint=f"name one: homotopy probe {typed(path / weights[0])}",
        )
    shown = ", ".join(names[:4]) or "nothing"
    return CheckpointError(
        f"{path}: is a folder without weights (it holds {shown})",
        hint="name a checkpoint file, or a folder with model.safetensors",
    )
