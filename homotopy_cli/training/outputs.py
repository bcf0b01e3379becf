"""Where a run writes, and the refusals that come before the first byte."""

import os
from dataclasses import dataclass
from pathlib import Path

from homotopy_cli.errors import HomotopyError, LogError
from homotopy_cli.runlog.journal import journal_path


@dataclass(frozen=True)
class RunPaths:
    """The files of one run: everything shares the log's folder and stem."""

    log: Path  # run.h5
    checkpoint: Path  # run.pt
    page: Path  # run.html

    @property
    def journal(self) -> Path:
        """The append-only journal beside the log, present while the run lives."""
        return journal_path(self.log)

    @property
    def best(self) -> Path:
        """The weights of the best evaluation: best.pt for run.h5, NAME-best.pt for NAME.h5."""
        stem = self.log.stem
        return self.log.with_name("best.pt" if stem == "run" else f"{stem}-best.pt")

    def existing(self) -> tuple[Path, ...]:
        """The files of an earlier run that are already there."""
        every = (self.log, self.journal, self.checkpoint, self.best, self.page)
        return tuple(path for path in every if os.path.lexists(path))


def run_paths(out: str | os.PathLike[str]) -> RunPaths:
    """RunPaths for the log `out`.

    Raises:
        LogError: `out` is a folder, or has a suffix that belongs to the checkpoint or page.
    """
    log = Path(out)
    if log.is_dir():
        raise LogError(f"{log}: is a folder, and --out names the log", hint=f"--out {log}/run.h5")
    if log.suffix in (".pt", ".html", ".journal"):
        raise LogError(
            f"{log}: --out names the HDF5 log, and {log.suffix} files are written beside it",
            hint=f"--out {log.with_suffix('.h5')}",
        )
    return RunPaths(log, log.with_suffix(".pt"), log.with_suffix(".html"))


def refuse_existing(paths: RunPaths, *, command: str = "homotopy train") -> None:
    """Raise LogError naming the files of an earlier run, before anything is written."""
    existing = paths.existing()
    if not existing:
        return
    first, *others = existing
    also = f" (and {', '.join(path.name for path in others)})" if others else ""
    raise LogError(
        f"{first}: exists{also}, from an earlier run; nothing was changed",
        hint=f"{command} --resume to continue it, --overwrite to replace it, or --out another.h5",
    )


def refuse_unwritable(paths: RunPaths) -> None:
    """Raise HomotopyError when the log's folder cannot be made or written; makes nothing."""
    folder = paths.log.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise _unwritable(paths, f"{folder} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(paths, f"no permission to write in {folder}")


def make_folder(paths: RunPaths) -> None:
    """Create the log's folder; a failure is a HomotopyError, not an OSError."""
    try:
        paths.log.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(paths, error.strerror or str(error)) from error


def _unwritable(paths: RunPaths, why: str) -> HomotopyError:
    return LogError(
        f"{paths.log}: cannot be written: {why}", hint="--out a path in a folder you can write to"
    )
