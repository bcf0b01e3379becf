"""Layers ranked by curvature: which number, in which order, how named."""

from collections.abc import Mapping
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
COMPONENT_MEASURES: dict[str, tuple[str, str]] = {
    "layer_attention_max_logit": ("attention logit", "1"),
    "layer_attention_entropy": ("attention entropy", "nat"),
    "layer_norm_sigma_min": ("norm σ", "activation"),
    "layer_norm_eps_over_var": ("norm ε/σ²", "1"),
}
SMALL_IS_WORST = ("layer_attention_entropy", "layer_norm_sigma_min")


@dataclass(frozen=True)
class Ranking:
    """The layers, most curved first."""

    measure: str  # the column that ranks
    label: str
    unit: str
    order: np.ndarray  # (L,) indices into log.layers
    latest: np.ndarray  # (L,) last finite value of each layer, NaN if none


def measured(
    log: RunLog, measures: Mapping[str, tuple[str, str]] = MEASURES
) -> dict[str, np.ndarray]:
    """The layer columns that hold any finite value, f8 (m, L), in the order of `measures`."""
    found = {}
    for name in measures:
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


def order_by(name: str, values: np.ndarray) -> np.ndarray:
    """Layers (k,) that hold a value of column `name`, the worst newest value first.

    Ties keep the model's order; what no probe measured is left out.
    """
    now = latest(values)
    key = np.where(np.isfinite(now), now if name in SMALL_IS_WORST else -now, np.inf)
    return np.argsort(key, kind="stable")[: int(np.isfinite(now).sum())]


def rank(log: RunLog, measures: Mapping[str, tuple[str, str]] = MEASURES) -> Ranking | None:
    """Rank by the newest value of the first measured column; layers without one come last."""
    columns = measured(log, measures)
    if not columns:
        return None
    name = next(iter(columns))
    label, unit = measures[name]
    first = order_by(name, columns[name])
    rest = np.setdiff1d(np.arange(len(log.layers)), first)
    return Ranking(name, label, unit, np.concatenate([first, rest]), latest(columns[name]))


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
