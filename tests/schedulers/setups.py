"""Small trainings shared by the scheduler tests."""

import torch
from torch import nn

from homotopy_cli.schedulers.adaptive import AdaptiveHomotopyLR
from homotopy_cli.schedulers.facade import CurvatureAdaptiveLR
from homotopy_cli.schedulers.homotopy import HomotopyLR
from homotopy_cli.schedulers.per_layer import PerLayerHomotopyLR
from homotopy_cli.schedulers.warmup import CurvatureWarmup

SCHEDULERS = {
    "homotopy": HomotopyLR,
    "adaptive": AdaptiveHomotopyLR,
    "per_layer": PerLayerHomotopyLR,
    "warmup": CurvatureWarmup,
    "facade": CurvatureAdaptiveLR,
}


def network(seed=0, dropout=0.2):
    """A small net with what a probe could disturb: dropout, BatchNorm statistics, in an MLP."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 16),
        nn.BatchNorm1d(16),
        nn.Tanh(),
        nn.Dropout(dropout),
        nn.Linear(16, 3),
    )


def batches(n, rows=16, seed=1):
    """n fixed classification batches (x, y)."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n):
        x = torch.randn(rows, 6, generator=generator)
        y = (x[:, 0] * 2 + x[:, 1] ** 2 > 0.5).long() + (x[:, 2] > 0.3).long()
        found.append((x, y))
    return found


def train(model, optimizer, scheduler, data, *, start=0, poison=()):
    """The documented loop; returns the rate used at every step. `poison`: steps of NaN inputs."""
    criterion = nn.CrossEntropyLoss()
    used = []
    for step, (x, y) in enumerate(data, start):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        if scheduler is not None:
            probe_x = torch.full_like(x, torch.nan) if step in poison else x
            scheduler.update_curvature(probe_x, y)
        used.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return used


class Quadratic(nn.Module):
    """L = Σ λᵢ xᵢ²/2 through forward(batch): the batch is a dummy, the curvature is known."""

    def __init__(self, eigenvalues, start=1.0, dtype=torch.float64):
        super().__init__()
        self.register_buffer("eigenvalues", torch.tensor(eigenvalues, dtype=dtype))
        self.x = nn.Parameter(torch.full((len(eigenvalues),), start, dtype=dtype))

    def forward(self, batch):
        return 0.5 * (self.eigenvalues * self.x**2).sum() + 0.0 * batch.sum()


def quadratic_loss(model, batch):
    return model(batch)


DUMMY = torch.zeros(4, dtype=torch.float64)
