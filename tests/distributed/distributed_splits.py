"""The same models and data in one process and spread unevenly over two ranks."""

from typing import Any

import torch
from cases import BY_NAME

from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem

CASES = (
    "mlp",
    "conv bn",
    "tied gpt",
    "ignored tokens",
    "uneven batches",
    "frozen and unused",
    "idle expert",
    "encoder",
)
CONFIGS = {
    "exact": EstimatorConfig.thorough(),
    "sampled": EstimatorConfig.thorough(refine_small=False, max_probes=8, trace_rtol=0.0),
    "training": EstimatorConfig.cheap(steps=3, blocks=True),
}


def own_rows(batches: list[Any], rank: int) -> list[Any]:
    """A third of each batch's rows for rank 0, the rest for rank 1: uneven, nothing lost."""
    parts = []
    for inputs, targets in batches:
        cut = max(1, len(targets) // 3)
        rows = slice(0, cut) if rank == 0 else slice(cut, None)
        parts.append((inputs[rows], targets[rows]))
    return parts


def partition(problem: Problem) -> Partition:
    return Partition.by_module(problem)


def direction(n: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def parts(name: str):
    """(model, loss, all batches), float64."""
    case = BY_NAME[name]
    model, batches = case.parts()
    return model, case.loss, batches
