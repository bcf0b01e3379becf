"""A recipe file becomes a Recipe, or one RecipeError that holds every fault."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from homotopy_cli.errors import RecipeError
from homotopy_cli.recipe.document import Document
from homotopy_cli.recipe.faults import translate
from homotopy_cli.recipe.named_files import add_missing
from homotopy_cli.recipe.overrides import apply_profile, apply_sets
from homotopy_cli.recipe.parsing import parse
from homotopy_cli.recipe.schema import Recipe
from homotopy_cli.recipe.values import closest

QUICKSTART = "quickstart"


@dataclass(frozen=True)
class LoadedRecipe:
    """A valid recipe and where it came from."""

    recipe: Recipe
    source: str  # exact text of the file
    path: Path | None  # None: a recipe that comes with the package
    base_dir: Path  # where the recipe's relative paths start
    name: str  # of the run: recipe.name, else the file's name without suffix
    overrides: tuple[str, ...] = ()  # --set arguments, as typed
    profile: str | None = None


def load_recipe(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    profile: str | None = None,
    files: bool = False,
) -> LoadedRecipe:
    """Read, change and validate a recipe.

    Args:
        path: A YAML file.
        overrides: `key.path=value` texts (`--set`), applied in order after the profile.
        profile: Names under `profiles:`, comma-separated, whose changes come first, in order.
        files: Whether a file of `model`, `loss` or `data` that is not there is a fault.

    Raises:
        RecipeError: `faults` holds every (message, hint), each as `file:line: key: what`.
    """
    path = Path(path)
    raw = _read(path)
    document = parse(raw, str(path))
    base_dir = path.parent.resolve()
    recipe = _validated(document, overrides, profile, base_dir if files else None)
    return LoadedRecipe(
        recipe,
        raw.decode("utf-8-sig"),
        path,
        base_dir,
        recipe.name or path.stem,
        tuple(overrides),
        profile,
    )


def builtin_recipe(
    name: str = QUICKSTART,
    overrides: Sequence[str] = (),
    *,
    profile: str | None = None,
    files: bool = False,
) -> LoadedRecipe:
    """A recipe that comes with the package; its relative paths start at the current folder.

    Args:
        overrides, profile, files: As for `load_recipe`.

    Raises:
        RecipeError: No such recipe, or an override that does not fit.
    """
    if name not in builtin_names():
        raise unknown_builtin(name)
    raw = builtin_source(name)
    document = parse(raw, f"{name}.yaml (built in)")
    recipe = _validated(document, overrides, profile, Path.cwd() if files else None)
    return LoadedRecipe(
        recipe,
        raw.decode("utf-8-sig"),
        None,
        Path.cwd(),
        recipe.name or name,
        tuple(overrides),
        profile,
    )


def open_recipe(
    given: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    profile: str | None = None,
    files: bool = False,
) -> LoadedRecipe:
    """A recipe by file, or by the name of one that comes with the package.

    A file is meant before a name. A name stands alone: no folder, no suffix.

    Args:
        given: Path or name; None: the quickstart.
        overrides, profile, files: As for `load_recipe`.

    Raises:
        RecipeError: As `load_recipe`.
    """
    if given is None:
        return builtin_recipe(QUICKSTART, overrides, profile=profile, files=files)
    if str(given) in builtin_names() and not Path(given).is_file():
        return builtin_recipe(str(given), overrides, profile=profile, files=files)
    return load_recipe(given, overrides, profile=profile, files=files)


def builtin_source(name: str) -> bytes:
    """The text of a recipe that comes with the package."""
    return (resources.files("homotopy_cli") / "builtin_recipes" / f"{name}.yaml").read_bytes()


def unknown_builtin(name: str) -> RecipeError:
    """No recipe of that name comes with the package."""
    near = closest(name, builtin_names())
    return RecipeError(
        f"no built-in recipe {name!r}",
        hint=f"did you mean {near!r}?" if near else f"one of {', '.join(builtin_names())}",
    )


def builtin_names() -> tuple[str, ...]:
    """Names that `builtin_recipe` knows."""
    folder = resources.files("homotopy_cli") / "builtin_recipes"
    files = [entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    return tuple(sorted(name.removesuffix(".yaml") for name in files))


def recipe_from_resolved(values: Mapping[str, Any] | str, label: str = "recipe") -> Recipe:
    """The recipe that `Recipe.resolved()` described, as a checkpoint or a log keeps it.

    Args:
        values: The mapping, or its JSON text.
        label: How messages name the place it came from.

    Raises:
        RecipeError: It does not fit this version's schema.
    """
    if isinstance(values, str):
        try:
            values = json.loads(values)
        except ValueError as error:
            raise RecipeError(f"{label}: the stored recipe is not JSON ({error})") from error
    if not isinstance(values, Mapping):
        raise RecipeError(f"{label}: the stored recipe is not a mapping")
    return _validated(Document(label, dict(values)), (), None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        folder = path.parent
        near = ""
        if folder.is_dir():
            near = closest(path.name, [p.name for p in folder.glob("*.y*ml")])
        known = "" if path.suffix or len(path.parts) > 1 else closest(str(path), builtin_names())
        hint = f"did you mean {folder / near}?" if near else "homotopy train --list shows some"
        hint = f"did you mean {known!r}, which comes with homotopy?" if known else hint
        raise RecipeError(f"{path}: no such recipe", hint=hint) from error
    except IsADirectoryError as error:
        raise RecipeError(f"{path}: is a folder", hint=f"{path}/NAME.yaml") from error
    except OSError as error:
        raise RecipeError(
            f"{path}: cannot be read ({error.strerror})", hint="name a file that you may read"
        ) from error


def _validated(
    document: Document,
    overrides: Sequence[str],
    profile: str | None,
    base_dir: Path | None = None,
) -> Recipe:
    """The recipe; with `base_dir`, files that are missing from there are faults too."""
    for name in profile.split(",") if profile is not None else ():
        apply_profile(document, name.strip())
    apply_sets(document, overrides)
    recipe = None
    try:
        recipe = Recipe.model_validate(document.data)
    except ValidationError as error:
        translate(error, document)
    if base_dir is not None:
        add_missing(document, base_dir)
    if document.faults or recipe is None:
        _raise(document)
    return recipe


def _raise(document: Document) -> None:
    faults = sorted(document.faults, key=lambda fault: fault.order)
    pairs = tuple(dict.fromkeys((fault.message, fault.hint) for fault in faults))
    more = f" (and {len(pairs) - 1} more)" if len(pairs) > 1 else ""
    raise RecipeError(pairs[0][0] + more, hint=pairs[0][1], faults=pairs)
