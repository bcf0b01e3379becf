"""One torchrun launch for each module of laws, shared by all tests that read its results."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    from distributed_launch import run_ranks

    found = {}

    def of(module):
        if module not in found:
            found[module] = run_ranks(module, tmp_path_factory.mktemp("ranks"))
        return found[module]

    return of
