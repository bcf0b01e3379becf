"""run.pt of several ranks: rank 0's file, and under FSDP a folder of shards beside it.

    DDP     run.pt as in one process, written by rank 0.
    FSDP    run-STEP.dcp, written by all ranks with torch.distributed.checkpoint: `model` and
            `optimizer` (each rank its shards, never gathered), the recipe and the step. Then
            run.pt with everything else and `sharded`, the folder's name. It is replaced
            atomically after the folder is whole, and the folder before it goes last: a kill at
            any moment leaves one complete pair.

`homotopy probe` reads either of the two. Any number of ranks resumes what any other saved; the
generators of ranks that were not there start from seed + rank. All ranks must see the folder.
"""

import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from homotopy_cli.errors import CheckpointError
from homotopy_cli.problems.adapters import whole_shards
from homotopy_cli.problems.reading import refuse_acting
from homotopy_cli.problems.sharded import is_dtensor
from homotopy_cli.training import checkpoint
from homotopy_cli.training.ranks import SaidElsewhere

_HEADER = ("step", "recipe", "recipe_source", "recipe_dir", "n_params", "loss")


def save_run(run: Any, path: Path, content: Mapping[str, Any]) -> None:
    """Write the checkpoint that `content` describes; every rank calls this with its own.

    Raises:
        CheckpointError: See `save_checkpoint`; the checkpoint before is intact.
    """
    run.ranks.sync_buffers(run.model)
    if not run.ranks.sharded:
        _by_main(run, path, content, kept=None)
        return
    folder = path.with_name(f"{path.stem}-{content['step']}.dcp")
    _write_shards(run, folder, content)
    groups = checkpoint.plain(content["optimizer"]["param_groups"])
    small = {"model": {}, "optimizer": {"state": {}, "param_groups": groups}}
    _by_main(run, path, {**content, **small, "sharded": folder.name}, kept=folder)


def load_run(run: Any, path: Path, content: Mapping[str, Any]) -> None:
    """Restore weights, optimizer, scheduler and probe from what `load_checkpoint` returned.

    Raises:
        CheckpointError: The folder of shards is missing or damaged.
    """
    name = content.get("sharded")
    if not run.ranks.sharded:
        run.load_state_dict({**content, **(whole_shards(path, name) if name else {})})
        return
    if name:
        _read_shards(run, path.with_name(name), content)
    else:
        _distribute(run, content)
    run.load_the_rest(content)


def remove_checkpoint(path: Path) -> None:
    """Delete run.pt and its folders of shards."""
    path.unlink(missing_ok=True)
    _remove_folders(path)


def rank_generators(run: Any) -> dict[str, Any]:
    """`rng` of rank 0, and of several ranks all of them in `ranks`."""
    every = run.ranks.gather(checkpoint.rng_state(run.device))
    return {"rng": every[0], **({"ranks": every} if len(every) > 1 else {})}


def restore_generators(run: Any, content: Mapping[str, Any]) -> None:
    """This rank's generators; as they are where the checkpoint had fewer ranks."""
    every = content.get("ranks") or [content["rng"]]
    if run.ranks.rank < len(every):
        checkpoint.restore_rng(every[run.ranks.rank], run.device)


def _by_main(run: Any, path: Path, content: Mapping[str, Any], *, kept: Path | None) -> None:
    """Rank 0 writes; where it cannot, all ranks know."""

    def write() -> None:
        if run.ranks.is_main:
            checkpoint.save_checkpoint(path, content)
            _remove_folders(path, kept=kept)

    try:
        run.ranks.together(write)
    except SaidElsewhere as error:
        raise CheckpointError(f"{path}: rank 0 could not write it") from error


def _remove_folders(path: Path, *, kept: Path | None = None) -> None:
    """Delete the folders of shards that belong to `path`, but for one."""
    pattern = re.compile(rf"{re.escape(path.stem)}-\d+\.dcp")
    for folder in path.parent.glob("*.dcp"):
        if pattern.fullmatch(folder.name) and folder != kept:
            shutil.rmtree(folder, ignore_errors=True)


def _write_shards(run: Any, folder: Path, content: Mapping[str, Any]) -> None:
    import torch.distributed.checkpoint as dcp

    if run.ranks.is_main:
        shutil.rmtree(folder, ignore_errors=True)  # of a save that a kill cut short
    head = {name: content[name] for name in _HEADER}
    state = {
        "format": checkpoint.FORMAT,
        "version": checkpoint.VERSION,
        **checkpoint.plain(head),
        "model": dict(content["model"]),
        "optimizer": content["optimizer"],
    }
    run.ranks.all(True)  # nobody writes before the old folder is gone
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.save(state, checkpoint_id=folder)
    except Exception as error:  # CheckpointException on every rank, whatever failed on one
        said = (str(error).splitlines() or [type(error).__name__])[-1]
        raise CheckpointError(
            f"{folder}: could not be written ({said}); the checkpoint before it is intact",
            hint="free some space, then the same command with --resume",
        ) from error


def _read_shards(run: Any, folder: Path, content: Mapping[str, Any]) -> None:
    """Each rank its shards, whatever number of ranks wrote them."""
    import torch.distributed.checkpoint as dcp

    metadata = folder / ".metadata"
    if not metadata.is_file():
        raise CheckpointError(
            f"{folder}: the shards of the checkpoint are not there",
            hint="bring the folder back beside run.pt, or start again with --overwrite",
        )
    refuse_acting(metadata, metadata.read_bytes())  # torch runs what this pickle says
    model = run.model.state_dict()
    saved = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    state: dict[int, dict[str, Tensor]] = {}
    for index, parameter in enumerate(run.params):
        prefix = f"optimizer.state.{index}."
        for key, entry in saved.items():
            if key.startswith(prefix) and hasattr(entry, "size"):
                name = key.removeprefix(prefix)
                state.setdefault(index, {})[name] = _room(entry, parameter)
    wanted = {"model": dict(model), "optimizer": {"state": state}}
    dcp.load(wanted, checkpoint_id=folder)
    run.model.load_state_dict(wanted["model"])
    groups = content["optimizer"]["param_groups"]
    run.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _room(entry: Any, parameter: Tensor) -> Tensor:
    """An empty tensor for a piece of optimizer state, sharded as its parameter."""
    if entry.size == parameter.shape:
        return torch.empty_like(parameter, dtype=entry.properties.dtype)
    return torch.empty(entry.size, dtype=entry.properties.dtype)


def _distribute(run: Any, content: Mapping[str, Any]) -> None:
    """Whole tensors that every rank has read, each rank keeping its shards."""
    live = run.model.state_dict()
    run.model.load_state_dict({k: _placed(v, live[k]) for k, v in content["model"].items()})
    saved = content["optimizer"]
    state = {
        index: {
            name: _placed(value, run.params[index]) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        for index, values in saved["state"].items()
    }
    run.optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})


def _placed(value: Tensor, like: Tensor) -> Tensor:
    """`value` sharded as `like`, without a word to other ranks; of another shape as it is."""
    if not is_dtensor(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
