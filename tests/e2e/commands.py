"""Run the real command as a user would: a subprocess in an empty folder."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


def homotopy(*argv: str | Path, cwd: Path, timeout: float = 300) -> Done:
    """`homotopy ARGV` in `cwd`, not a terminal, one thread."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    env.pop("CI", None)
    finished = subprocess.run(
        [sys.executable, "-m", "homotopy_cli", *map(str, argv)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return Done(finished.returncode, finished.stdout, finished.stderr)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` with its bytes: to show that nothing was touched."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def is_two_lines(done: Done) -> bool:
    """Exit 2 with `error: ...`, `hint: ...` and no traceback."""
    lines = [line for line in done.err.splitlines() if line.startswith(("error:", "hint:"))]
    return done.code == 2 and lines[:1] != [] and "Traceback" not in done.err
