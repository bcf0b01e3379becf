"""A pydantic error -> a Fault: where in the recipe, what is wrong, what to type instead."""

from typing import Any

from pydantic import ValidationError

from homotopy_cli.recipe.document import Document, Path, dotted
from homotopy_cli.recipe.optimizers import NEEDS_A_CLOSURE, NEEDS_SPARSE_GRADIENTS
from homotopy_cli.recipe.running import CompileSpec, EarlyStopSpec
from homotopy_cli.recipe.schema import (
    DATA_SPECS,
    FIXED_SPECS,
    MODEL_SPECS,
    SCHEDULER_SPECS,
    TORCH_SPECS,
    ClipSpec,
    CurvatureSpec,
    Recipe,
)
from homotopy_cli.recipe.values import Misfit, closest, kind_of, shown

_SECTIONS: dict[str, dict[str, Any]] = {
    "model": MODEL_SPECS,
    "data": DATA_SPECS,
    "optimizer": TORCH_SPECS,
    "scheduler": SCHEDULER_SPECS,
    "inner": FIXED_SPECS,
}
_EPOCHS = "steps: N, optimizer steps; an epoch is the training examples / batch_size of them"
_ELSEWHERE = {  # names that other tools have for a setting
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs", "max_epochs", "epoch"), _EPOCHS),
    **dict.fromkeys(("learning_rate", "max_lr", "peak_lr"), "optimizer: {lr: 1e-3}"),
    **dict.fromkeys(("grad_clip", "max_grad_norm", "clip_norm"), "clip: {max_norm: 1.0}"),
}
_USER_CODE = {
    "model": ", or model.py:build",
    "data": ", or a .npz file, or data.py:load",
    "optimizer": ", or package.module:Class",
}


def translate(error: ValidationError, document: Document) -> None:
    """Add every fault of `error` to `document`, without repeating a key that has one."""
    items = error.errors(include_url=False)
    unknown = {_path(item["loc"], document.data, True) for item in items if _is_unknown(item)}
    known_bad = {fault.path for fault in document.faults}
    for item in items:
        path = _path(item["loc"], document.data, item["type"] in ("missing", "extra_forbidden"))
        if any(path[: len(bad)] == bad for bad in known_bad if bad):
            continue
        _one(item, path, unknown, document)


def _is_unknown(item: Any) -> bool:
    return item["type"] == "extra_forbidden"


def _path(loc: tuple[str | int, ...], data: Any, keep_last: bool) -> Path:
    """`loc` without the union tags that pydantic adds: only keys that the recipe has."""
    path: list[str | int] = []
    here = data
    for index, part in enumerate(loc):
        listed = isinstance(here, list) and isinstance(part, int) and part < len(here)
        if listed or (isinstance(here, dict) and part in here):
            here = here[part]
            path.append(part)
        elif keep_last and index == len(loc) - 1:
            path.append(part)
    return tuple(path)


def _value_at(path: Path, data: Any) -> Any:
    for part in path:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _one(item: Any, path: Path, unknown: set[Path], document: Document) -> None:
    kind, context = item["type"], item.get("ctx", {})
    value = _value_at(path, document.data)
    misfit = context.get("error")
    if isinstance(misfit, Misfit):
        document.add_fault((*path, *misfit.path), misfit.what, misfit.hint)
    elif kind == "extra_forbidden":
        typed = document.place(path).key.startswith("--set ")
        what, hint = _unknown_key(path, document.data, typed)
        section = path[:-1]
        renamed = document.place((*section, "name")).key.startswith("--set ")
        if section and renamed and not typed:
            # The file's keys are those of the name that --set took away.
            name = _value_at((*section, "name"), document.data)
            hint = f"--set {dotted(section)}={name} replaces the whole section"
        document.add_fault(path, what, hint, at_key=True)
    elif kind == "missing":
        if not any(
            closest(str(key[-1]), [str(path[-1])]) for key in unknown if key[:-1] == path[:-1]
        ):
            _missing(path, document)
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        _wrong_name(path, value, document)
    elif kind in ("model_type", "model_attributes_type", "dict_type"):
        section = str(path[-1]) if path else "recipe"
        hint = f"write `{section}:` and its settings indented below"
        if path == ("clip",) and isinstance(value, int | float) and not isinstance(value, bool):
            hint = f"clip: {{name: norm, max_norm: {value}}}"
        document.add_fault(path, f"{shown(value)} is {kind_of(value)}, not a mapping", hint)
    elif kind == "literal_error":
        options = [
            word.strip(" '\"") for word in context["expected"].replace(" or ", ",").split(",")
        ]
        near = closest(value, options) if isinstance(value, str) else ""
        hint = f"did you mean {near!r}?" if near else f"one of {', '.join(options)}"
        document.add_fault(path, f"{shown(value)} is not one of {', '.join(options)}", hint)
    elif kind in ("too_short", "too_long"):
        if any(fault.path[:-1] == path for fault in document.faults):
            return  # an entry that is wrong does not count as given
        limit = context.get("min_length", context.get("max_length"))
        document.add_fault(path, f"needs {limit} values, has {context['actual_length']}")
    elif kind in ("tuple_type", "list_type"):
        document.add_fault(
            path, f"{shown(value)} is {kind_of(value)}, not a list", "write [first, second]"
        )
    else:
        document.add_fault(path, item["msg"])


def _missing(path: Path, document: Document) -> None:
    holder = _value_at(path[:-1], document.data)
    if isinstance(holder, dict) and path[-1] in holder:
        document.add_fault(path, "is null, but needs a value", _example(path))
    else:
        document.add_fault(path, "missing", _example(path), at_key=True)


def _example(path: Path) -> str:
    examples = {
        "model": "model: model.py:build, or model: {name: gpt}",
        "data": "data: data.npz, or data: {name: text, path: corpus.txt}",
        "optimizer": "optimizer: {name: adamw, lr: 1e-3}",
        "optimizer.lr": "lr: 1e-3",
        "steps": "steps: 500",
    }
    return examples.get(dotted(path), f"add `{path[-1]}:`")


def _unknown_key(path: Path, data: Any, typed: bool) -> tuple[str, str]:
    """Words for an unknown key: its neighbours' names first, then where else it belongs.

    Args:
        typed: By --set or --sweep, not in the file.
    """
    spec, owner = _spec_of(path[:-1], data)
    names = [name for name in spec.model_fields if name != "name" or path[:-1]] if spec else []
    key = str(path[-1])
    near = closest(key, names)
    what = f"unknown key of {owner}" if owner else "unknown key"
    if near:
        return what, f"did you mean {near!r}?"
    if not path[:-1] and key in _ELSEWHERE:
        return what, _ELSEWHERE[key]
    for section in ("curvature", "clip", "optimizer", "scheduler", "model", "data"):
        class_ = None if path[:-1] else _spec_of((section,), data)[0]
        if class_ and key in class_.model_fields and key != "name":
            if typed:
                return what, f"did you mean {section}.{key}?"
            return what, f"it belongs under `{section}:`"
    if len(path) > 1 and key in Recipe.model_fields:
        return what, f"it belongs at the top, not under `{dotted(path[:-1])}:`"
    return what, f"known here: {', '.join(names)}"


def _spec_of(path: Path, data: Any) -> tuple[Any, str]:
    """The settings class that governs the mapping at `path`, and how to name it."""
    if not path:
        return Recipe, ""
    section = str(path[-1])
    if section in _SECTIONS:
        value = _value_at(path, data)
        name = value.get("name") if isinstance(value, dict) else value
        return _SECTIONS[section].get(name), f"{name}"
    sections = {
        "curvature": CurvatureSpec,
        "clip": ClipSpec,
        "compile": CompileSpec,
        "early_stop": EarlyStopSpec,
    }
    return sections.get(section), section


def _wrong_name(path: Path, value: Any, document: Document) -> None:
    section = str(path[-1]) if path else ""
    options = _SECTIONS.get(section, {})
    listed = ", ".join(options) + _USER_CODE.get(section, "")
    if isinstance(value, str):  # short for {name: value}
        value, where = {"name": value}, path
    elif isinstance(value, dict):
        where = (*path, "name")
    else:
        document.add_fault(
            path, f"{shown(value)} is {kind_of(value)}, not a {_noun(section)}", f"one of {listed}"
        )
        return
    name = value.get("name")
    if name is None:
        near = [key for key in value if closest(str(key), ["name"])]
        hint = f"did you mean 'name' for {near[0]!r}?" if near else f"name: one of {listed}"
        document.add_fault(path, "needs a name", hint)
        return
    near_name = closest(str(name), options)
    if section == "optimizer" and str(name).lower() in options:
        document.add_fault(where, f"{name!r} is not known", f"write {str(name).lower()}")
    elif section == "optimizer" and str(name).lower() in NEEDS_A_CLOSURE:
        document.add_fault(where, f"{name!r} steps with a closure", "use a first-order optimizer")
    elif section == "optimizer" and str(name).lower() in NEEDS_SPARSE_GRADIENTS:
        document.add_fault(where, f"{name!r} needs sparse gradients", "use adam")
    else:
        hint = f"did you mean {near_name!r}?" if near_name else f"one of {listed}"
        document.add_fault(where, f"{shown(name)} is not a known {_noun(section)}", hint)


def _noun(section: str) -> str:
    return {"data": "kind of data", "inner": "schedule"}.get(section, section)
