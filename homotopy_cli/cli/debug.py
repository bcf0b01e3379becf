"""`--debug`, an option of every command: an error with its traceback instead of two lines."""

from typing import Annotated

import typer

FLAG = "--debug"
Debug = Annotated[
    bool,
    # Taken from the arguments before they are parsed: usage errors have a traceback too.
    typer.Option(FLAG, expose_value=False, help="Show the traceback of an error."),
]


def split(argv: list[str]) -> tuple[list[str], bool]:
    """The arguments without the flag, wherever it stands, and whether it was there."""
    return [word for word in argv if word != FLAG], FLAG in argv
