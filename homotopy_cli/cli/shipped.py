"""`homotopy train --list`, `--copy NAME` and `--schema`: recipes before anything is trained."""

import json
import shutil
import textwrap
from pathlib import Path

WIDTH = 100  # columns of the list at most; longer facts go on below


def list_recipes() -> int:
    """The recipes of the package, each with what it needs; 0."""
    from homotopy_cli.recipe.shipped import shipped_recipes

    width = min(WIDTH, max(40, shutil.get_terminal_size((WIDTH, 24)).columns))
    for recipe in shipped_recipes():
        print(recipe.name)
        facts = (("what", recipe.title), ("data", recipe.data), ("small", recipe.small))
        for word, fact in facts:
            first, *more = textwrap.wrap(fact, width - 10)
            print(f"  {word:<6}  {first}")
            for line in more:
                print(f"          {line}")
    print()
    print("run   homotopy train NAME --profile small   (without the profile: the whole run)")
    print("keep  homotopy train --copy NAME            (writes NAME.yaml here, to be changed)")
    return 0


def copy_recipe(name: str, destination: Path | None) -> int:
    """Write a recipe of the package to a file and say what to type next; 0."""
    from homotopy_cli.recipe.shipped import copy_shipped

    target = copy_shipped(name, destination)
    print(f"recipe  {target}")
    print(f"next    homotopy train {target} --check")
    return 0


def print_schema() -> int:
    """The JSON schema of recipes on stdout; 0."""
    from homotopy_cli.recipe.editor import recipe_json_schema

    print(json.dumps(recipe_json_schema(), indent=1, ensure_ascii=False))
    return 0
