"""Read a doubtful file in a process of its own: the HDF5 library is C, and a crafted or damaged
file can make it loop, crash or fill the memory. Then that process ends, not ours."""

import contextlib
import faulthandler
import json
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from homotopy_cli.errors import LogError
from homotopy_cli.records import EventRecord, RunInfo
from homotopy_cli.runlog.content import LogContent, Spectra
from homotopy_cli.runlog.load_file import FileContent

CPU_SECONDS = 5  # and one for each 8 MiB: 1e6 rows take 0.3 s
WALL_SECONDS = 60
MEMORY = 6 * 2**30  # beyond what this process has already
_COLUMNS = ("steps", "probes", "layer_values", "evals")
_ARRAYS = ("step", "attempt", "probe_step", "probe_attempt", "eval_step", "eval_attempt")
_SPECTRA = ("step", "attempt", "layer", "kind", "offset", "values", "weights")


def isolated(read: Callable[[Path], FileContent], path: Path) -> FileContent:
    """`read(path)`, in a forked process with limits.

    Raises:
        LogError: What `read` raises; or the process crashed, or did not end.
    """
    if not hasattr(os, "fork") or sys.platform == "darwin":  # no fork, or not a safe one
        return read(path)
    with tempfile.TemporaryFile() as result:
        with warnings.catch_warnings():
            # Threads of this process do not exist in the child, which only reads and ends.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            _in_child(read, path, result)
        status = _waited(child)
        if status != 0:
            raise LogError(
                f"{path}: damaged HDF5 file ({_why(status)})",
                hint="continue from the last checkpoint, or copy the file again",
            )
        result.seek(0)
        return _unpacked(result)


def _in_child(read: Callable[[Path], FileContent], path: Path, result: IO[bytes]) -> None:
    code = 1
    try:
        faulthandler.disable()
        _limit(path)
        try:
            _pack(read(path), result)
        except LogError as error:
            _save(result, {"error": [error.message, error.hint]}, {})
        result.flush()
        code = 0
    except MemoryError:
        code = 2
    finally:
        os._exit(code)  # no cleanup that belongs to the parent


def _limit(path: Path) -> None:
    import resource

    seconds = CPU_SECONDS + path.stat().st_size // 2**23
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _waited(child: int) -> int:
    """The child's exit code; minus the signal that ended it."""
    pause, until = 0.001, time.monotonic() + WALL_SECONDS
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGXCPU
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _why(status: int) -> str:
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return "reading it does not end"
    if status < 0:
        return f"the HDF5 library crashed on it: {signal.Signals(-status).name}"
    return "reading it takes too much memory" if status == 2 else "reading it failed"


def _pack(file: FileContent, result: IO[bytes]) -> None:
    content = file.content
    arrays = {name: getattr(content, name) for name in _ARRAYS}
    arrays |= {f"spectra/{name}": getattr(content.spectra, name) for name in _SPECTRA}
    for group in _COLUMNS:
        for name, values in getattr(content, group).items():
            arrays[f"{group}/{name}"] = values
    facts = {
        "info": vars(content.info),
        "events": [[attempt, *vars(event).values()] for attempt, event in content.events],
        "attempt_start": content.attempt_start,
        "status": content.status,
        "closed": content.closed,
        "seq": content.seq,
        "attrs": file.attrs,
        "absent": sorted(file.absent),
        "notes": file.notes,
    }
    _save(result, facts, arrays)


def _save(result: IO[bytes], facts: dict, arrays: dict[str, np.ndarray]) -> None:
    text = np.frombuffer(json.dumps(facts).encode(), "u1")
    np.savez(result, facts=text, **arrays)


def _unpacked(result: IO[bytes]) -> FileContent:
    with np.load(result, allow_pickle=False) as stored:
        facts = json.loads(stored["facts"].tobytes())
        if "error" in facts:
            message, hint = facts["error"]
            raise LogError(message, hint=hint)
        columns: dict[str, dict[str, np.ndarray]] = {group: {} for group in _COLUMNS}
        for key in stored.files:
            group, _, name = key.partition("/")
            if group in columns:
                columns[group][name] = stored[key]
        info = facts["info"]
        for name in ("layers", "layer_numel", "layer_kind", "argv"):
            info[name] = tuple(info[name])
        content = LogContent(
            info=RunInfo(**info),
            attempt_start=tuple(facts["attempt_start"]),
            status=facts["status"],
            closed=facts["closed"],
            seq=facts["seq"],
            spectra=Spectra(**{name: stored[f"spectra/{name}"] for name in _SPECTRA}),
            events=tuple((event[0], EventRecord(*event[1:])) for event in facts["events"]),
            **{name: stored[name] for name in _ARRAYS},
            **columns,
        )
    return FileContent(content, facts["attrs"], frozenset(facts["absent"]), tuple(facts["notes"]))
