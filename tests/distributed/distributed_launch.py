"""Real torchrun: start ranks that run some laws, and bring back what each of them returned.

As a program (under torchrun) it runs the named laws one after another; a law that raises gives
its error in place of its result, so that one launch serves many tests.
"""

import gc
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TIMEOUT = 600  # seconds; the ranks give up much earlier, after PATIENCE without an answer
PATIENCE = 90


def run_ranks(module: str, folder: Path, *, ranks: int = 2) -> list[dict[str, Any]]:
    """Run every `law_*` of a module under torchrun; returns law -> result for each rank."""
    import torch

    done = start(ranks, str(HERE / "distributed_launch.py"), module, str(folder))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    return [torch.load(folder / f"{module}{rank}.pt", weights_only=False) for rank in range(ranks)]


def start(ranks: int, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """torchrun --nproc-per-node RANKS COMMAND, in words that work without a console script."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE.parent)]),
    }
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    return subprocess.run(
        [*torchrun, "--nproc-per-node", str(ranks), *command],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=environment,
        cwd=cwd,
    )


def main(module: str, folder: str) -> None:
    """Inside a rank."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=PATIENCE))
    rank = dist.get_rank()
    found = {}
    laws = importlib.import_module(module)
    for name in sorted(name for name in vars(laws) if name.startswith("law_")):
        torch.manual_seed(0)
        try:
            found[name.removeprefix("law_")] = getattr(laws, name)(rank)
        except Exception as error:  # a law may be about an error: the test reads it
            found[name.removeprefix("law_")] = error
    torch.save(found, f"{folder}/{module}{rank}.pt")
    dist.barrier()
    gc.collect()  # a wrapped model holds the group, whose threads must end before Python does
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
