"""Finding a data file, or saying what was looked for, where, and what lies there instead."""

import difflib
from pathlib import Path

from homotopy_cli.errors import ProblemError


def find(
    path: str,
    base_dir: Path | str | None,
    *,
    what: str = "data file",
    key: str = "data.path",
    how: str = "",
) -> Path:
    """`path`, relative to `base_dir`, as an existing file or folder.

    Args:
        what: What it is, in a message.
        key: The setting that names it.
        how: Where to get it, as the hint; default only the setting.

    Raises:
        ProblemError: Nothing there.
    """
    wanted = Path(path).expanduser()
    full = wanted if wanted.is_absolute() else Path(base_dir or Path.cwd()) / wanted
    if full.exists():
        return full
    folder = full.parent
    if folder.is_dir():
        near = difflib.get_close_matches(full.name, [p.name for p in folder.iterdir()], n=1)
        place = f"looked in {folder.resolve()}"
        hint = f"did you mean {near[0]!r}?" if near else how or f"--set {key}=PATH"
    else:
        place = f"looked in {folder}, which does not exist"
        hint = how or f"--set {key}=PATH"
    raise ProblemError(f"{path}: no such {what}; {place}", hint=hint)


def read(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        ProblemError: A folder, unreadable, or empty.
    """
    if path.is_dir():
        raise ProblemError(f"{path}: is a folder, not a file", hint=f"--set data.path={path}/FILE")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ProblemError(f"{path}: cannot be read ({error.strerror})") from error
    if not raw:
        raise ProblemError(f"{path}: is empty", hint="--set data.path=PATH")
    return raw
