"""The recipes that come with the package: what each is, what it needs, and copies of it.

The first comment of such a recipe is its title, one sentence; below it stand two facts, which
tests hold against the recipe itself:

    #   data    what must be there before it runs
    #   small   how long its small profile takes
"""

import re
from dataclasses import dataclass
from pathlib import Path

from homotopy_cli.errors import RecipeError
from homotopy_cli.recipe.load import builtin_names, builtin_source, unknown_builtin

_FACT = re.compile(r"^#   (data|small)   +(\S.*)$")
_MORE = re.compile(r"^#           (\S.*)$")


@dataclass(frozen=True)
class Shipped:
    """One recipe as a list shows it."""

    name: str
    title: str  # one sentence
    data: str  # what must be there
    small: str  # time of `--profile small`


def shipped_recipes() -> tuple[Shipped, ...]:
    """All of them, by name."""
    return tuple(_described(name) for name in builtin_names())


def copy_shipped(name: str, destination: Path | None = None) -> Path:
    """Write a recipe of the package to a file of the user's, byte for byte.

    Args:
        name: Of `builtin_names`.
        destination: A file, or a folder that exists; default NAME.yaml in the current folder.

    Returns:
        The file that was written.

    Raises:
        RecipeError: No such recipe, a file that is there already, or no such folder.
    """
    if name not in builtin_names():
        raise unknown_builtin(name)
    target = destination if destination is not None else Path(f"{name}.yaml")
    if target.is_dir():
        target = target / f"{name}.yaml"
    try:
        with target.open("xb") as file:
            file.write(builtin_source(name))
    except FileExistsError as error:
        raise RecipeError(
            f"{target}: is there already, and is not overwritten",
            hint=f"homotopy train --copy {name} OTHER.yaml",
        ) from error
    except OSError as error:
        raise RecipeError(
            f"{target}: cannot be written ({error.strerror})",
            hint="name a file in a folder that exists and that you may write to",
        ) from error
    return target


def _described(name: str) -> Shipped:
    lines = builtin_source(name).decode("utf-8").splitlines()
    facts: dict[str, str] = {}
    last = ""
    for line in lines[1:]:
        fact, more = _FACT.match(line), _MORE.match(line)
        if fact:
            last = fact[1]
            facts[last] = fact[2]
        elif more and last:
            facts[last] += " " + more[1]
        elif facts:
            break
    return Shipped(name, lines[0].removeprefix("# "), facts["data"], facts["small"])
