"""What the log keeps about where a run happened: versions, device, the command line.

An allow-list, not a dump: no environment variable but those that change arithmetic or
placement, no user name, no host name; arguments whose flag speaks of a secret are masked.
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
_SECRET = re.compile(r"(token|secret|password|passwd|api[-_]?key|credential)", re.IGNORECASE)


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


def redact(argv: Sequence[str], *, home: Path | None = None) -> tuple[str, ...]:
    """`argv` with secrets masked and the home folder written as ~.

    `--token abc`, `--token=abc` and `--set data.api_key=abc` all end in `***`.
    """
    prefix = str(home if home is not None else Path.home())
    out: list[str] = []
    mask_next = False
    for argument in argv:
        key, equals, _ = argument.partition("=")
        if mask_next and not argument.startswith("-"):
            out.append("***")
        elif equals and _SECRET.search(key):
            out.append(f"{key}=***")
        elif len(prefix) > 1 and argument.startswith(prefix):
            out.append("~" + argument[len(prefix) :])
        else:
            out.append(argument)
        mask_next = argument.startswith("-") and not equals and bool(_SECRET.search(key))
    return tuple(out)


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """`name old -> new` for each fact that differs, for the event a resumed run logs."""
    names = sorted(set(before) | set(now))
    return [
        f"{name} {before.get(name, '-')} -> {now.get(name, '-')}"
        for name in names
        if before.get(name) != now.get(name) and name != "SLURM_JOB_ID"
    ]
