"""`homotopy train`: the options. What they do is in train_run.py, which may import torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from homotopy_cli.cli.debug import Debug
from homotopy_cli.errors import HomotopyError

if TYPE_CHECKING:
    from homotopy_cli.recipe.load import LoadedRecipe


def train(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RECIPE]",
            readable=False,  # our own error says more
            help="YAML file, or a name that --list shows; left out: quickstart.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a setting: optimizer.lr=3e-3; repeatable."
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Profiles of the recipe, e.g. small or small,cosine."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN.h5", help="The log; default runs/RECIPE/run.h5."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run at --out, bit for bit.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run at --out.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Validate, build, one step and one probe; write nothing."),
    ] = False,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=A,B,C", help="One run per value; repeat for a grid; --out is a folder."
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N|A,B", help="Repeat each setting with other seeds.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs of a sweep at a time.")] = 1,
    report: Annotated[bool, typer.Option(help="Write the page run.html at the end.")] = True,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress; warnings and results stay.")
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="Show the recipes that come with homotopy, and stop.")
    ] = False,
    copy: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Copy one to NAME.yaml, or to the path given as RECIPE."),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of recipes, for editors.")
    ] = False,
    debug: Debug = False,
) -> int:
    """Train a recipe; curvature is measured on the way and holds the learning rate when needed.

    Writes the log run.h5, the checkpoint run.pt beside it, and the page run.html. Without a
    recipe: a small GPT on text that comes with Python, in about a minute.
    """
    from homotopy_cli.cli.ranks import alike, refuse_launcher
    from homotopy_cli.cli.shipped import copy_recipe, list_recipes, print_schema

    asked = [f"--{k}" for k, v in (("list", list_), ("copy", copy), ("schema", schema)) if v]
    if len(asked) > 1:
        raise HomotopyError(f"{' and '.join(asked)}: each is a command of its own", hint=asked[0])
    if list_:
        return list_recipes()
    if copy is not None:
        return copy_recipe(copy, recipe)
    if schema:
        return print_schema()
    from homotopy_cli.cli.train_run import run_check, run_grid, run_train
    from homotopy_cli.recipe.load import open_recipe

    def load(overrides: tuple[str, ...], profile: str | None) -> "LoadedRecipe":
        return open_recipe(recipe, overrides, profile=profile, files=True)

    overrides = tuple(settings or ())
    with _faults_of_a_check(check):
        if sweep or seeds is not None:
            alike(lambda: refuse_launcher("a sweep", "homotopy train ... --sweep without torchrun"))
            return run_grid(
                load,
                overrides=overrides,
                profile=profile,
                recipe=recipe,
                out=out,
                sweeps=sweep or [],
                seeds=seeds,
                jobs=jobs,
                resume=resume,
                overwrite=overwrite,
                check=check,
                quiet=quiet,
            )
        from homotopy_cli.training.distributed import process_group

        loaded = alike(lambda: load(overrides, profile))
        with process_group(loaded.recipe.parallel, loaded.recipe.device) as ranks:
            if check:
                return run_check(loaded, out=out, ranks=ranks)
            return run_train(
                loaded,
                recipe=recipe,
                out=out,
                resume=resume,
                overwrite=overwrite,
                page=report,
                quiet=quiet,
                ranks=ranks,
            )


@contextmanager
def _faults_of_a_check(check: bool) -> Iterator[None]:
    """Exit code 1 is "--check found faults", not a usage error."""
    try:
        yield
    except HomotopyError as error:
        if check and error.exit_code == HomotopyError.exit_code:
            error.exit_code = 1
        raise
