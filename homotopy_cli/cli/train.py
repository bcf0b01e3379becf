"""`homotopy train`: the options. What they do is in train_run.py, which may import torch."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="[RECIPE]", help="YAML recipe; left out: the built-in quickstart."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a setting: optimizer.lr=3e-3; repeatable."
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="A profile of the recipe, e.g. small.")
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
    report: Annotated[bool, typer.Option(help="Write the page run.html at the end.")] = True,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress; warnings and results stay.")
    ] = False,
) -> int:
    """Train a recipe; curvature is measured on the way and holds the learning rate when needed.

    Writes the log run.h5, the checkpoint run.pt beside it, and the page run.html. Without a
    recipe: a small GPT on text that comes with Python, in about a minute.
    """
    from homotopy_cli.cli.train_run import run_check, run_train
    from homotopy_cli.recipe.load import builtin_recipe, load_recipe

    overrides = tuple(settings or ())
    if recipe is None:
        loaded = builtin_recipe("quickstart", overrides, profile=profile)
    else:
        loaded = load_recipe(recipe, overrides, profile=profile)
    if check:
        return run_check(loaded, out=out)
    return run_train(
        loaded,
        recipe=recipe,
        out=out,
        resume=resume,
        overwrite=overwrite,
        page=report,
        quiet=quiet,
    )
