"""What several files of this folder measure."""

import pytest
import torch
from torch import nn

from homotopy_cli.problems.problem import Problem


@pytest.fixture(scope="module")
def problem():
    """A tanh net of 1,404 parameters, just above SMALL_N: sums over its spectrum are sampled."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 48), nn.Tanh(), nn.Linear(48, 12)).double()
    x = torch.randn(64, 16, dtype=torch.float64)
    return Problem.from_module(net, "cross_entropy", [(x, torch.randint(12, (64,)))])
