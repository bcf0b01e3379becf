"""Shared by every test: the oracles' folder on the path, one seed, no colour."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
for name in ("FORCE_COLOR", "HOMOTOPY_DEBUG"):
    os.environ.pop(name, None)
os.environ["NO_COLOR"] = "1"
# One thread a process, and in those that tests start: the workers and torch's threads would
# otherwise wait for each other's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _seeded():
    import torch

    torch.manual_seed(0)
