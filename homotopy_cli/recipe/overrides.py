"""`--set a.b=c` and profiles: changes to a document before it is validated."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from homotopy_cli.errors import RecipeError
from homotopy_cli.recipe.document import Document, Path, Place
from homotopy_cli.recipe.parsing import parse_value
from homotopy_cli.recipe.values import closest


def apply_sets(document: Document, overrides: Sequence[str]) -> None:
    """Apply each `key.path=VALUE`, in order; VALUE follows the rules of the recipe itself.

    Raises:
        RecipeError: An argument without `=`, or a value that is not YAML.
    """
    for argument in overrides:
        key, equals, text = argument.partition("=")
        key = key.strip()
        if not equals or not key or not all(key.split(".")):
            raise RecipeError(f"--set {argument}: is not KEY=VALUE", hint="--set optimizer.lr=1e-3")
        label = f"--set {argument}"
        value, places, faults = parse_value(text, label)
        path = split(key)
        _put(document, path, value, places, label)
        document.faults.extend(
            type(fault)(fault.place, (*path, *fault.path), fault.what, fault.hint, fault.order)
            for fault in faults
        )


def apply_profile(document: Document, name: str) -> None:
    """Apply the changes of `profiles.NAME`.

    Raises:
        RecipeError: The recipe has no such profile.
    """
    profiles = document.data.get("profiles")
    known = list(profiles) if isinstance(profiles, dict) else []
    if name not in known:
        near = closest(name, known)
        hint = f"did you mean {near!r}?" if near else f"its profiles: {', '.join(known) or 'none'}"
        raise RecipeError(f"{document.label}: no profile {name!r}", hint=hint)
    changes = profiles[name]
    if not isinstance(changes, dict):
        return  # the schema says what is wrong with it
    for key, value in _leaves(changes, ("profiles", name)):
        place = document.place(key)
        target = tuple(part for word in key[2:] for part in split(str(word)))
        _put(document, target, copy.deepcopy(value), {(): place}, place.key)


def split(key: str) -> Path:
    """`optimizer.betas.1` -> ("optimizer", "betas", 1)"""
    return tuple(int(part) if part.isdigit() else part for part in key.split("."))


def _leaves(changes: Mapping[str, Any], path: Path) -> list[tuple[Path, Any]]:
    """Nested mappings are merged key by key, unless they name something: then they replace."""
    out: list[tuple[Path, Any]] = []
    for key, value in changes.items():
        inner = (*path, key)
        if isinstance(value, dict) and "name" not in value:
            out.extend(_leaves(value, inner))
        else:
            out.append((inner, value))
    return out


def _put(document: Document, path: Path, value: Any, places: dict[Path, Place], label: str) -> None:
    try:
        document.put(path, value, places)
    except (IndexError, ValueError, TypeError) as error:
        raise RecipeError(
            f"{label}: there is nothing at {'.'.join(map(str, path))}",
            hint="set the whole list: --set optimizer.betas='[0.9, 0.95]'",
        ) from error
