"""Libraries that only some recipes need, and what to install when one is missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from homotopy_cli.errors import ProblemError


@contextmanager
def extra(name: str, *, library: str, wanted_by: str) -> Iterator[None]:
    """Around an import: a library that is not there is a ProblemError that names the extra.

    Args:
        name: The extra of homotopy-cli that brings it.
        library: How its users call it.
        wanted_by: The part of the recipe that needs it.

    Raises:
        ProblemError: The import failed.
    """
    try:
        yield
    except ImportError as error:
        raise ProblemError(
            f"{wanted_by}: needs {library}, which is not installed ({error})",
            hint=f"pip install 'homotopy-cli[{name}]'",
        ) from error
