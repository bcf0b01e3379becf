"""Checkpoints: read by content, never by name, and never by running code unasked."""

import difflib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from homotopy_cli.errors import CheckpointError
from homotopy_cli.problems.adapters import ADAPTERS
from homotopy_cli.problems.archives import Archive, sniff
from homotopy_cli.problems.dcp import is_dcp, read_dcp
from homotopy_cli.problems.entries import Parts
from homotopy_cli.problems.exported import read_exported
from homotopy_cli.problems.folders import read_folder, read_safetensors
from homotopy_cli.problems.naming import fit, strip_wrappers
from homotopy_cli.problems.reading import (
    Content,
    read_legacy,
    read_pickle,
    read_trusted,
    read_zip,
)
from homotopy_cli.zoo.pretrained import config_of


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights, how it was found, and what lay beside it."""

    # homotopy state_dict nested lightning torchscript torch_export module safetensors sharded dcp
    # transformers
    kind: str
    path: Path
    state: dict[str, Tensor]  # CPU
    entry: str  # "" for a file that is one set
    entries: tuple[str, ...]  # all sets there are
    prefix_removed: str = ""  # "module._orig_mod."
    recipe: dict[str, Any] | None = None  # resolved, our own checkpoints only
    recipe_source: str | None = None  # its exact text
    recipe_dir: Path | None = None  # where its relative paths start
    optimizer_state: dict[str, Any] | None = None  # param_groups, state
    scheduler_state: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what was chosen or left out, in words
    sets: dict[str, dict[str, Tensor]] = field(default_factory=dict, repr=False)
    module: nn.Module | None = field(default=None, repr=False)  # with trust_pickle only


def read_checkpoint(
    path: str | Path, *, trust_pickle: bool = False, entry: str | None = None
) -> Checkpoint:
    """Read a checkpoint file or folder onto the CPU.

    Args:
        path: torch zip or legacy file, safetensors, TorchScript, torch.export, a folder of shards
            or one that torch.distributed.checkpoint wrote.
        trust_pickle: Let a pickle run code, where reading it without is not enough.
        entry: Which set of weights in a nested file; None takes `model` before `state_dict`
            and the like, and says so in `notes`.

    Raises:
        CheckpointError: One line of what is wrong with the file, one of what to do.
    """
    path = Path(path)
    parts = _parts(path, trust_pickle)
    name = _chosen(path, parts, entry)
    state, prefix = strip_wrappers(parts.sets[name])
    if not state:
        raise CheckpointError(f"{path}: holds no tensor", hint="name a file with weights")
    notes = list(parts.notes)
    others = [f'"{other}"' if other else "all of it" for other in parts.sets if other != name]
    taken = f'took the weights in "{name}"' if name else "took all weights as one set"
    if others:
        notes.insert(0, f"{taken}; also there: {', '.join(others)} (--entry NAME)")
    elif name and parts.kind != "homotopy":
        notes.insert(0, taken)
    extra = dict(parts.extra)
    return Checkpoint(
        kind=parts.kind,
        path=path,
        state=state,
        entry=name,
        entries=tuple(parts.sets),
        prefix_removed=prefix,
        recipe=extra.pop("recipe", None),
        recipe_source=extra.pop("recipe_source", None),
        recipe_dir=extra.pop("recipe_dir", None),
        optimizer_state=parts.optimizer,
        scheduler_state=parts.scheduler,
        extra=extra,
        notes=tuple(notes),
        sets=parts.sets,
        module=parts.module,
    )


def load_into(model: nn.Module, checkpoint: Checkpoint) -> Checkpoint:
    """Load the weights into `model`, strictly: every one fits, none is missing, all are finite.

    Prefixes that wrappers and trainers put before names are removed where the names then
    match; a tied tensor may be there once.

    Returns:
        The checkpoint with `prefix_removed` and `notes` as they turned out.

    Raises:
        CheckpointError: Names or shapes differ (both are shown), empty tensors of a sharded
            run, or NaN and infinity among the weights.
    """
    fitted = fit(
        model,
        checkpoint.path,
        checkpoint.state,
        checkpoint.prefix_removed,
        _others(checkpoint),
        lenient=checkpoint.kind == "torchscript",
    )
    fitted.load(model)
    return replace(
        checkpoint,
        state=fitted.state,
        prefix_removed=fitted.prefix,
        notes=(*checkpoint.notes, *fitted.notes),
    )


def _others(checkpoint: Checkpoint) -> dict[str, dict[str, Tensor]]:
    return {name: s for name, s in checkpoint.sets.items() if name != checkpoint.entry}


def _parts(path: Path, trust_pickle: bool) -> Parts:
    if path.is_dir() and is_dcp(path):
        parts = _adapted(path, read_dcp(path))
        parts.kind = "dcp"
        return parts
    if path.is_dir():
        parts = read_folder(path, lambda file: _file_parts(file, trust_pickle))
        config = config_of(path)
        if config is not None:
            parts.kind, parts.extra["config"] = "transformers", config
        return parts
    return _file_parts(path, trust_pickle)


def _file_parts(path: Path, trust_pickle: bool) -> Parts:
    kind = sniff(path)
    if kind == "safetensors":
        return read_safetensors(path)
    if kind == "zip" and (exported := read_exported(path)) is not None:
        return exported
    try:
        return _adapted(path, _READERS[kind](path))
    except CheckpointError:
        if not trust_pickle:
            raise
        if kind == "zip":  # trust is in who wrote the file, not in damage since
            with open(path, "rb") as file:
                Archive(path, file).verify()
    return _adapted(path, read_trusted(path))


def _adapted(path: Path, content: Content) -> Parts:
    """The parts of a file's content, by the first adapter that knows its kind."""
    parts = next(made for adapter in ADAPTERS if (made := adapter(path, content)) is not None)
    if content.stand_ins and parts.kind != "torchscript":
        named = ", ".join(content.stand_ins[:4])
        more = len(content.stand_ins) - 4
        named += f" and {more} more" if more > 0 else ""
        parts.notes = (*parts.notes, f"only tensors and plain values were read; not run: {named}")
    return parts


_READERS = {"zip": read_zip, "legacy": read_legacy, "pickle": read_pickle}


def _chosen(path: Path, parts: Parts, entry: str | None) -> str:
    """The set to take."""
    names = list(parts.sets)
    if entry is None:
        return names[0]
    wanted = entry.replace("/", ".")
    if wanted in parts.sets:
        return wanted
    shown = ", ".join(f'"{name}"' for name in names if name)
    if not shown:
        raise CheckpointError(
            f'{path}: has no entry "{entry}": it is one set of weights', hint="leave --entry out"
        )
    close = difflib.get_close_matches(wanted, names, n=1)
    raise CheckpointError(
        f'{path}: has no entry "{entry}"; sets of weights in it: {shown}',
        hint=f"--entry {close[0]}" if close else "leave --entry out to take the first",
    )
