"""Output files, written whole or not at all."""

import os
import stat
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from homotopy_cli.errors import HomotopyError


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write a whole output file: whoever opens it meanwhile sees the old one or the new one.

    `-` is stdout. A device, and a file in a folder where no other can be made, are written in
    place.

    Raises:
        HomotopyError: It cannot be written; what was there is as it was, or there is nothing.
    """
    if str(target) == "-":
        sys.stdout.write(text)
        return
    data = text.encode("utf-8")
    real = Path(os.path.realpath(target))  # a link stays one
    try:
        if in_place(Path(target)) or not os.access(real.parent, os.W_OK):
            Path(target).write_bytes(data)
        else:
            _replace(real, data)
    except OSError as error:
        raise HomotopyError(
            f"{target}: cannot be written: {error.strerror or error}",
            hint="give a path in a folder that exists and that you may write to",
        ) from error


def in_place(path: Path) -> bool:
    """Whether it is a device, a pipe or this process's own stdout by name: nothing to replace."""
    if str(path).startswith(("/dev/", "/proc/")):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _replace(path: Path, data: bytes) -> None:
    made = None
    try:
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask()
        with tempfile.NamedTemporaryFile(
            "wb", dir=path.parent, prefix=f".{path.name[:100]}.", delete=False
        ) as file:
            made = file.name
            file.write(data)
        os.chmod(made, mode)
        try:
            os.replace(made, path)
        except OSError:
            if not path.is_file():
                raise
            path.write_bytes(data)  # mounted by itself, say: its place cannot be taken
        else:
            made = None
    finally:
        if made is not None:
            Path(made).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_all(writes: Sequence[Callable[[], None]]) -> HomotopyError | None:
    """Make every write, whichever of them fails; returns what could not be written.

    A measurement has been paid for: one full disk must not cost the outputs that lie elsewhere.
    """
    failed: list[HomotopyError] = []
    for write in writes:
        try:
            write()
        except HomotopyError as error:
            failed.append(error)
    if not failed:
        return None
    return HomotopyError("; ".join(error.message for error in failed), hint=failed[0].hint)
