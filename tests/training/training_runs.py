"""Small recipes made in the test's own folder, and the ways to run them."""

import os
import signal
from pathlib import Path

import numpy as np

MODEL = """\
import torch.nn as nn, torch.nn.functional as F
def build():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
def build_with_state():
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
def loss(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y)
"""
RECIPE = """\
model: model.py:{model}
loss: model.py:loss
data: data.npz
optimizer: {optimizer}
scheduler: {scheduler}
curvature: {{freq: {freq}, layers_freq: 2}}
steps: {steps}
batch_size: 16
eval_every: {eval_every}
checkpoint_every: {checkpoint_every}
seed: 1
{more}
"""


def folder(path: Path, **settings) -> Path:
    """Write model.py, data.npz and recipe.yaml into `path`; returns the recipe."""
    values = {
        "model": "build",
        "optimizer": "{name: sgd, lr: 0.1}",
        "scheduler": "constant",
        "freq": 5,
        "steps": 20,
        "eval_every": 0,
        "checkpoint_every": 0,
        "more": "",
        **settings,
    }
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5)).astype("float32")
    y = (x @ rng.normal(size=(5, 3)).astype("float32")).argmax(1).astype("int64")
    np.savez(path / "data.npz", x=x, y=y)
    (path / "model.py").write_text(MODEL)
    (path / "recipe.yaml").write_text(RECIPE.format(**values))
    return path / "recipe.yaml"


class StopAt:
    """An observer that sends this very process a signal after one step."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.at, self.number = step, number

    def start(self, total, first):
        pass

    def step(self, view):
        if view.step == self.at:
            os.kill(os.getpid(), self.number)

    def evaluation(self, record):
        pass

    def event(self, record):
        pass

    def stop(self):
        pass


TIMES = {"wall_time", "step_seconds", "probe_seconds_step", "probe_seconds"}


def rows(log) -> dict[str, np.ndarray]:
    """Every number of a log that does not come from a clock."""
    found = {"step": log.step, "probe_step": log.probe_step, "eval_step": log.eval_step}
    for columns in (log.steps, log.probes, log.layer_values, log.evals):
        found |= {name: values for name, values in columns.items() if name not in TIMES}
    return found


def assert_same_rows(first, second) -> None:
    """Bit for bit, NaN equal to NaN."""
    a, b = rows(first), rows(second)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
