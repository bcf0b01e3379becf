"""Commands under torchrun: one process speaks for all."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

from homotopy_cli.errors import HomotopyError

T = TypeVar("T")
WAIT = 3.0  # seconds that a silent process leaves to the one that speaks; torchrun ends all at once


def launched() -> bool:
    """Whether a launcher started several processes of this command."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def alike(function: Callable[[], T]) -> T:
    """What `function` returns; an error that every process has is said by rank 0's alone."""
    try:
        return function()
    except HomotopyError as error:
        if not launched() or os.environ.get("RANK", "0") == "0":
            raise
        time.sleep(WAIT)
        raise HomotopyError("", exit_code=error.exit_code) from error


def refuse_launcher(what: str, hint: str) -> None:
    """Raise HomotopyError where a launcher started several processes of what is one's work."""
    if launched():
        raise HomotopyError(
            f"{what} runs in one process, and a launcher started "
            f"{os.environ['WORLD_SIZE']} (WORLD_SIZE)",
            hint=hint,
        )
