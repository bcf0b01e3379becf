"""Read a log: run.h5, or its journal, or both while the run lives."""

import os
from pathlib import Path

from homotopy_cli.errors import LogError
from homotopy_cli.runlog.load import load
from homotopy_cli.runlog.view import RunLog, Spectrum, newest_attempt

__all__ = ["RunLog", "Spectrum", "read_log"]


def read_log(path: str | os.PathLike[str]) -> RunLog:
    """Read a run's log, whoever wrote it and whether or not it is being written.

    Rows that only the journal holds are merged, and a note says so. Nothing is written, nothing
    is locked. Only datasets of the schema are opened; what does not fit it is ignored, with a
    note; columns of unequal length are cut to the shortest, with a note.

    Args:
        path: The run.h5.

    Returns:
        The newest attempt's view.

    Raises:
        LogError: Absent, not HDF5, truncated, never completed, damaged, not a homotopy run,
            written with a newer major schema, or refused because it reaches outside itself or
            declares more than it holds. One line, with a hint.
    """
    given = Path(path)
    real = Path(os.path.realpath(given))
    try:
        return newest_attempt(given, load(real))
    except LogError as error:
        raise LogError(
            error.message.replace(str(real), str(given)),
            hint=error.hint.replace(str(real), str(given)),
            exit_code=error.exit_code,
        ) from error
