"""A folder given to `report` in place of a log: the logs that lie in it."""

from collections.abc import Sequence
from pathlib import Path

PAGE = "compare.html"  # in the folder, of several logs


def expanded(given: Sequence[Path]) -> tuple[list[Path], Path | None]:
    """(logs, the page's default path where a folder of several came first, else None).

    A folder stands for the logs in it, by name; one without any stays, and is refused as a log.
    """
    logs: list[Path] = []
    page = None
    for path in given:
        inside = logs_in(path)
        if len(inside) > 1 and not logs:
            page = path / PAGE
        logs += inside or [path]
    return list(dict.fromkeys(logs)), page


def logs_in(folder: Path) -> list[Path]:
    """*.h5 of a folder, also those of which only the journal is there yet."""
    if not folder.is_dir():
        return []
    names = {path.name for path in folder.glob("*.h5") if path.is_file()}
    names |= {path.name.removesuffix(".journal") for path in folder.glob("*.h5.journal")}
    return [folder / name for name in sorted(names)]
