"""Runs and files that the log's tests share."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

from homotopy_cli.records import EvalRecord, EventRecord, ProbeRecord, RunInfo, StepRecord

REPOSITORY = Path(__file__).parent.parent.parent
CHILD = Path(__file__).with_name("runlog_child.py")
LAYERS = ("embed", "block.0.attn", "head")


def info(**changes) -> RunInfo:
    facts = {
        "run_id": "case",
        "layers": LAYERS,
        "layer_numel": (12, 30, 8),
        "layer_kind": ("Embedding", "Linear", "Linear"),
        "recipe_source": "model: {name: gpt}  # exact text\n",
        "recipe_resolved": {"model": {"name": "gpt"}, "clip": {"max_norm": float("inf")}},
        "environment": {"python": "3.11"},
        "argv": ("homotopy", "train"),
        "seed": 7,
        "n_params": 50,
        "created_utc": "2026-01-01T00:00:00Z",
    }
    return RunInfo(**(facts | changes))


def step(i: int) -> StepRecord:
    return StepRecord(i, {"loss": loss(i), "lr": 1e-3, "grad_norm": 0.5 * i, "lr_reason": i % 3})


def loss(i: int) -> float:
    return 1.0 / (i + 1)


def probe(i: int) -> ProbeRecord:
    return ProbeRecord(
        i,
        {"kappa": 2.0 * i, "lambda_max": -1.5, "converged": 1},
        {"layer_kappa": np.array([i, np.nan, 3.0]), "layer_lr": np.full(3, 1e-3)},
        (np.arange(4.0) + i, np.full(4, 0.25)),
    )


def fill(writer, steps: range, *, probe_every: int = 5) -> None:
    for i in steps:
        if i % probe_every == 0:
            writer.append_probe(probe(i))
        writer.append_step(step(i))


def finish(writer, n: int) -> None:
    writer.append_eval(EvalRecord(n, {"eval_loss": 0.25}))
    writer.append_event(EventRecord(n, "info", "DONE", "as planned"))
    writer.close()


def run_child(path: Path, *words: str, fault: str = "") -> subprocess.CompletedProcess:
    """Run runlog_child.py in a process of its own, which a fault point may kill."""
    environment = {**os.environ, "HOMOTOPY_FAULT": fault, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(CHILD), str(path), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def acknowledged(done: subprocess.CompletedProcess) -> int:
    """How many rows the child was told are safe: the last step it printed, plus one."""
    lines = [line for line in done.stdout.split("\n") if line.startswith("ack ")]
    return int(lines[-1].split()[1]) + 1 if lines else 0


def foreign_log(path: Path, n: int = 10, *, layers: int = 2, leave_out=(), **attrs) -> None:
    """A plain h5py log by another program: no units, no events, no provenance."""
    columns = {
        "step": np.arange(n),
        "attempt": np.zeros(n, "i2"),
        "wall_time": 0.01 * np.arange(n),
        "loss": 1 / (1 + np.arange(n)),
        "lr": np.full(n, 1e-3),
        "grad_norm": np.ones(n),
        "probe_step": np.arange(n),
        "kappa": 1.0 + np.arange(n),
        "layer_kappa": np.ones((n, layers), "f4"),
    }
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "homotopy-run", "schema_version": "1.0", "run_id": "other"})
        file.attrs.update({"rows_committed": n, "closed": 1, "attempts": 1, **attrs})
        for name, values in columns.items():
            if name not in leave_out:
                file.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]))
        if "layer" not in leave_out:
            file["layer"] = [f"{i}" for i in range(layers)]
