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
GROWN = 3.0  # growth of a gradient norm worth a word; our choice
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


def sharpest(
    log: RunLog, n: int = 3, *, until: int | None = None
) -> tuple[list[tuple[str, str]], int]:
    """The n most curved layers as (name, "λ_max 41.2"), and the step of their newest look.

    Args:
        until: The last step that counts; None: the log's last.
    """
    ranking = rank(log)
    if ranking is None:
        return [], -1
    values = measured(log)[ranking.measure]
    looks = np.isfinite(values).any(axis=1)
    if until is not None:
        looks &= log.probe_step <= until
    if not looks.any():
        return [], -1
    last = int(np.flatnonzero(looks)[-1])
    now = latest(values[: last + 1])
    top = [i for i in order_by(ranking.measure, values[: last + 1])[:n] if np.isfinite(now[i])]
    shown = [(log.layers[i], f"{ranking.label} {number(float(now[i]), 3)}") for i in top]
    return shown, int(log.probe_step[last])


def grown(log: RunLog, until: int) -> tuple[str, float, int, int] | None:
    """Whose gradient norm grew most over the last three looks up to a step.

    Returns:
        (layer, factor, first look, last look), or None: fewer than two looks, or below GROWN.
    """
    values = measured(log).get("layer_grad_norm")
    if values is None:
        return None
    looks = np.flatnonzero(np.isfinite(values).any(axis=1) & (log.probe_step <= until))[-3:]
    if len(looks) < 2:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = values[looks[-1]] / values[looks[0]]
    factor = np.where(np.isfinite(factor), factor, 0.0)
    top = int(factor.argmax())
    if factor[top] < GROWN:
        return None
    first, last = (int(log.probe_step[row]) for row in (looks[0], looks[-1]))
    return log.layers[top], float(factor[top]), first, last
