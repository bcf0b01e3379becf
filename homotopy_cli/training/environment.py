"""What the log keeps about where a run happened: versions, device, the command line.

An allow-list, not a dump: no environment variable but those that change arithmetic or
placement, no user name, no host name. The log masks secrets in the command line by itself.
"""

import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from homotopy_cli._version import __version__

_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "WORLD_SIZE",
    "SLURM_JOB_ID",
)


def environment(device: torch.device | str = "cpu") -> dict[str, str]:
    """Versions, threads and device of this process, as strings for /provenance/environment."""
    device = torch.device(device)
    facts = {
        "homotopy": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": str(np.__version__),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device.type,
        "threads": str(torch.get_num_threads()),
    }
    if device.type == "cuda":
        facts["device_name"] = torch.cuda.get_device_name(device)
        facts["cuda"] = str(torch.version.cuda)
    facts.update({name: os.environ[name] for name in _VARIABLES if name in os.environ})
    return facts


def without_home(argv: Sequence[str], *, home: Path | None = None) -> tuple[str, ...]:
    """`argv` with the home folder written as ~: a log is passed on, a user name need not be."""
    prefix = str(home if home is not None else Path.home())
    if len(prefix) < 2:
        return tuple(argv)
    return tuple(re.sub(rf"{re.escape(prefix)}(?=/|$)", "~", word) for word in argv)


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """`name old -> new` for each fact that differs, for the event a resumed run logs."""
    names = sorted(set(before) | set(now))
    return [
        f"{name} {before.get(name, '-')} -> {now.get(name, '-')}"
        for name in names
        if before.get(name) != now.get(name) and name != "SLURM_JOB_ID"
    ]
