"""One small function per kind of checkpoint: content -> its parts, or None for another kind."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from homotopy_cli.errors import CheckpointError, typed
from homotopy_cli.problems.dcp import is_dcp, read_dcp
from homotopy_cli.problems.entries import (
    Parts,
    find_sets,
    optimizer_of,
    scheduler_of,
    small_values,
)
from homotopy_cli.problems.legible import Inert
from homotopy_cli.problems.reading import Content

FORMAT = "homotopy-checkpoint"
VERSION = 1


def homotopy(path: Path, content: Content) -> Parts | None:
    """What `homotopy train` writes: model, optimizer, scheduler, and the recipe inside."""
    value = content.value
    if not isinstance(value, Mapping) or value.get("format") != FORMAT:
        return None
    version = value.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(
            f"{path}: checkpoint version {version}, this program reads {VERSION} and older",
            hint="pip install --upgrade homotopy-cli",
        )
    try:
        recipe = json.loads(value["recipe"]) if value.get("recipe") else None
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the recipe inside is not readable JSON",
            hint=f"homotopy probe {typed(path)} --recipe RECIPE.yaml",
        ) from error
    if value.get("sharded"):
        value = {**value, **whole_shards(path, value["sharded"])}
    folder = value.get("recipe_dir")
    base = path.absolute().parent
    extra = {k: value[k] for k in ("step", "loss", "n_params", "version") if k in value}
    return Parts(
        "homotopy",
        {"model": dict(value["model"])},
        optimizer_of(value)[0],
        scheduler_of(value),
        {
            **extra,
            "recipe": recipe,
            "recipe_source": value.get("recipe_source"),
            "recipe_dir": base / folder if isinstance(folder, str) else base,
        },
    )


def whole_shards(path: Path, name: str) -> dict[str, Any]:
    """`model` and `optimizer` of a run under FSDP, whose shards lie in a folder beside run.pt.

    Raises:
        CheckpointError: The folder is missing or damaged.
    """
    folder = path.with_name(Path(name).name)
    if not is_dcp(folder):
        raise CheckpointError(
            f"{path}: its weights are in the folder {folder.name}, which is not beside it",
            hint=f"copy {folder.name} there: a run under FSDP saves both",
        )
    content = read_dcp(folder).value
    return {"model": content.get("model", {}), "optimizer": content.get("optimizer", {})}


def torchscript(path: Path, content: Content) -> Parts | None:
    """A TorchScript archive: the tensors of its module tree; its code is not loaded."""
    if not content.torchscript:
        return None
    state = module_tensors(content.value)
    if not state:
        raise CheckpointError(
            f"{path}: is a TorchScript archive without parameters",
            hint="torch.save(model.state_dict(), PATH) of the Python model, and name that",
        )
    note = f"TorchScript archive: {len(state)} tensors read, its code was not loaded"
    return Parts("torchscript", {"": state}, notes=(note,))


def whole_module(path: Path, content: Content) -> Parts | None:
    """torch.save(model): the class is code. With trust it is here; else its name is said."""
    value = content.value
    holders: list[tuple[str, Any]] = [("", value)]
    if isinstance(value, Mapping):
        holders += [(str(k), v) for k, v in value.items()]
    for name, held in holders:
        if isinstance(held, nn.Module):
            parts = Parts("module", {name: dict(held.state_dict())}, module=held)
            if isinstance(value, Mapping):
                parts.optimizer, _ = optimizer_of(value)
                parts.extra = small_values(value)
            return parts
    if isinstance(value, Mapping) and find_sets(value):
        return None
    for _, held in holders:
        if isinstance(held, Inert) and _is_module(held):
            raise CheckpointError(
                f"{path}: is a pickled module of class {held.path}, not a state_dict: loading it "
                "would run code",
                hint=f"homotopy probe {typed(path)} --trust-pickle with "
                f"{held.path.rpartition('.')[0]} importable, or save model.state_dict() instead",
            )
    return None


def lightning(path: Path, content: Content) -> Parts | None:
    """PyTorch Lightning: "state_dict" with the attribute's name before every key."""
    value = content.value
    if not isinstance(value, Mapping) or "pytorch-lightning_version" not in value:
        return None
    parts = nested(path, content)
    if parts is not None:
        parts.kind = "lightning"
    return parts


def optimizer_alone(path: Path, content: Content) -> None:
    """optimizer.state_dict() without any weights: refused by name.

    Raises:
        CheckpointError: It is one.
    """
    value = content.value
    if not isinstance(value, Mapping) or {"state", "param_groups"} != set(value):
        return
    raise CheckpointError(
        f"{path}: is an optimizer's state, which holds no weights",
        hint="name the file of the model's weights; a checkpoint with both holds "
        "{'model': model.state_dict(), 'optimizer': optimizer.state_dict()}",
    )


def nested(path: Path, content: Content) -> Parts | None:
    """A bare state_dict, or any nest of dicts that holds sets of weights."""
    value = content.value
    if isinstance(value, Inert):
        value = value.attributes or value.__dict__.get("items", {})
    if not isinstance(value, Mapping):
        return None
    sets = find_sets(value)
    if not sets:
        return None
    bare = list(sets) == [""]
    optimizer, several = (None, "") if bare else optimizer_of(value)
    return Parts(
        "state_dict" if bare else "nested",
        sets,
        optimizer,
        None if bare else scheduler_of(value),
        {} if bare else small_values(value),
        notes=(several,) if several else (),
    )


def nothing(path: Path, content: Content) -> Parts:
    """No weights: say what there is."""
    value = content.value
    if isinstance(value, Tensor):
        held = f"one tensor of shape {list(value.shape)}"
    elif isinstance(value, Mapping):
        held = f"a dict with {', '.join(str(k) for k in list(value)[:6]) or 'nothing'}"
    elif isinstance(value, Inert):
        held = f"an object of class {value.path}"
    elif isinstance(value, list | tuple):
        held = f"a {type(value).__name__} of {len(value)}"
    else:
        held = f"a {type(value).__name__}"
    raise CheckpointError(
        f"{path}: holds {held}, but no set of weights (names with tensors)",
        hint="torch.save(model.state_dict(), PATH), and name that file; batches go to --batch",
    )


ADAPTERS: tuple[Callable[[Path, Content], Parts | None], ...] = (
    homotopy,
    torchscript,
    whole_module,
    lightning,
    optimizer_alone,
    nested,
    nothing,
)


def module_tensors(value: Any) -> dict[str, Tensor]:
    """The tensors of a tree of module stand-ins, by dotted name; lists of tensors are left out."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()

    def visit(node: Any, prefix: str) -> None:
        if not isinstance(node, Inert) or id(node) in seen:
            return
        seen.add(id(node))
        attributes = node.attributes
        for name, item in attributes.items():
            if isinstance(item, Tensor):
                found[f"{prefix}{name}"] = item
        for name, item in attributes.items():
            visit(item, f"{prefix}{name}.")

    visit(value, "")
    return found


def _is_module(value: Inert) -> bool:
    """A pickled nn.Module's state has these."""
    return {"_parameters", "_modules"} <= value.attributes.keys()
