"""Layers ranked by curvature: which number, in which order, how named."""

from dataclasses import dataclass

import numpy as np

from homotopy_cli.report.words import number
from homotopy_cli.runlog.reader import RunLog

# column of the log -> (label, unit), in the order of preference for ranking.
MEASURES: dict[str, tuple[str, str]] = {
    "layer_lambda_max": ("λ_max", "loss/parameter²"),
    "layer_kappa": ("κ", "1/loss"),
    "layer_trace": ("trace", "loss/parameter²"),
    "layer_grad_norm": ("gradient norm", "loss/parameter"),
    "layer_lr": ("learning rate", "lr"),
}


@dataclass(frozen=True)
class Ranking:
    """The layers, most curved first."""

    measure: str  # the column that ranks
    label: str
    unit: str
    order: np.ndarray  # (L,) indices into log.layers
    latest: np.ndarray  # (L,) last finite value of each layer, NaN if none


def measured(log: RunLog) -> dict[str, np.ndarray]:
    """The layer columns that hold any finite value, f8 (m, L), in MEASURES' order."""
    found = {}
    for name in MEASURES:
        values = log.layer_values.get(name)
        if values is None:
            continue
        values = np.asarray(values, dtype=np.float64)
        shape = (len(log.probe_step), len(log.layers))
        if values.shape == shape and np.isfinite(values).any():
            found[name] = values
    return found


def latest(values: np.ndarray) -> np.ndarray:
    """The last finite value of every column of (m, L), NaN where there is none."""
    finite = np.isfinite(values)
    last = len(values) - 1 - finite[::-1].argmax(axis=0)
    picked = values[last, np.arange(values.shape[1])]
    return np.where(finite.any(axis=0), picked, np.nan)


def rank(log: RunLog) -> Ranking | None:
    """Rank by the newest value of the first measured column; ties keep the model's order."""
    columns = measured(log)
    if not columns:
        return None
    name = next(iter(columns))
    label, unit = MEASURES[name]
    now = latest(columns[name])
    key = np.where(np.isfinite(now), -now, np.inf)
    return Ranking(name, label, unit, np.argsort(key, kind="stable"), now)


def sharpest(log: RunLog, n: int = 3) -> list[tuple[str, str]]:
    """The n most curved layers as (name, "λ_max 41.2")."""
    ranking = rank(log)
    if ranking is None:
        return []
    return [
        (log.layers[i], f"{ranking.label} {number(float(ranking.latest[i]), 3)}")
        for i in ranking.order[:n]
        if np.isfinite(ranking.latest[i])
    ]
