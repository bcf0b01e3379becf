"""Attention, normalisation and output distribution: where transformers go wrong first."""

import math

import numpy as np
import plotly.graph_objects as go

from homotopy_cli.records import SEED_KAPPA_WORTH
from homotopy_cli.report import words
from homotopy_cli.report.figures.draw import add_line, log_axis, row_suffix, stacked_figure
from homotopy_cli.report.panel import Panel, data_table
from homotopy_cli.report.series import column, curve, last_finite, wants_log
from homotopy_cli.runlog.reader import RunLog

# column, label, role
COMPONENTS = (
    ("attention_max_logit", "largest attention logit", "blue"),
    ("attention_entropy", "attention entropy (nat)", "teal"),
    ("norm_sigma_min", "smallest σ of a norm layer", "orange"),
    ("norm_eps_over_var", "largest ε/σ² of a norm layer", "gold"),
    ("p_min", "smallest target probability", "violet"),
    ("p_q001", "0.1 % quantile of target probability", "violet"),
    ("log_z_mean", "mean log Z of the softmax", "red"),
)
LAYERED = {  # a column's twin by layer
    "attention_max_logit": "layer_attention_max_logit",
    "attention_entropy": "layer_attention_entropy",
    "norm_eps_over_var": "layer_norm_eps_over_var",
}
# column, alarm, +1 where values above it are past it, its name in a sentence, what past it means
COMPONENT_ALARMS = (
    (
        "attention_max_logit",
        1e4,
        1,
        "the largest attention logit",
        "attention logits above 1e4: diverging",
    ),
    (
        "attention_entropy",
        0.05,
        -1,
        "attention entropy",
        "attention entropy collapsed towards 0",
    ),
    (
        "norm_eps_over_var",
        0.1,
        1,
        "ε over a norm layer's variance",
        "ε is more than a tenth of a norm layer's variance",
    ),
)


def _measured(log: RunLog) -> dict[str, np.ndarray]:
    found = {name: column(log.probes, name) for name, *_ in COMPONENTS}
    return {name: values for name, values in found.items() if values is not None}


def _build(log: RunLog, columns: dict[str, np.ndarray]) -> tuple[go.Figure, list[str]]:
    rows = [row for row in COMPONENTS if row[0] in columns]
    figure = stacked_figure([label for _, label, _ in rows], height=70 + 88 * len(rows))
    notes: list[str] = []
    for i, (name, label, role) in enumerate(rows):
        values, row = columns[name], row_suffix(i)
        positive = wants_log(values)
        if positive:
            log_axis(figure, row=row)
        line = curve(log.probe_step, values, name, positive=positive, gaps=False)
        add_line(figure, line, name=label, role=role, width=1.6, row=row, legend=False)
        notes += line.notes
    return figure, notes


def components_panel(log: RunLog) -> Panel:
    """The panel: the usual suspects, with their alarms."""
    key, title = "components", "Over the run"
    columns = _measured(log)
    if not columns:
        return Panel(
            key,
            title,
            "No component was recorded.",
            empty="This log has no attention_*, norm_* or p_* columns. They are measured on "
            "models with attention, normalisation layers or a cross-entropy loss.",
        )
    figure, notes = _build(log, columns)
    notes += _seed_kappa(columns)
    parts = [
        f"{label} ended at {words.number(last_finite(columns[name]), 3)}"
        for name, label, _ in COMPONENTS
        if name in columns
    ][:3]
    alarms = _alarms(columns)
    text = words.sentences([*alarms, words.join(parts)])
    table = data_table("step", log.probe_step, columns)
    return Panel(key, title, text, figure, "", tuple(notes), table, wide=len(columns) > 3)


def _seed_kappa(columns: dict[str, np.ndarray]) -> list[str]:
    """The naive curvature proxies of the last values, and what they are worth."""
    found = []
    for name, formula, log_of in (
        ("attention_max_logit", "e^(2·logit)", lambda v: 2 * v),
        ("norm_sigma_min", "1/σ²", lambda v: -2 * math.log(v)),
        ("p_min", "1/p", lambda v: -math.log(v)),
    ):
        last = last_finite(columns[name]) if name in columns else None
        if last is not None and (name == "attention_max_logit" or last > 0):
            exponent = log_of(last)
            if exponent < math.log(1e308):
                found.append(f"{formula} {words.number(math.exp(exponent), 2)}")
    return [f"At the end seed_kappa is {words.join(found)}: {SEED_KAPPA_WORTH}."] if found else []


def _alarms(columns: dict[str, np.ndarray]) -> list[str]:
    """What the last values say."""
    found = []
    for name, limit, sign, _, meaning in COMPONENT_ALARMS:
        values = columns.get(name)
        last = last_finite(values) if values is not None else None
        if last is not None and sign * (last - limit) > 0:
            found.append(meaning)
    return found


def alarms(log: RunLog) -> list[str]:
    """The first look at which each alarm was passed: how much, when, in which layer."""
    found = []
    for name, limit, sign, subject, _ in COMPONENT_ALARMS:
        values = column(log.probes, name)
        past = np.empty(0) if values is None else np.flatnonzero(sign * (values - limit) > 0)
        if values is None or not len(past):
            continue
        worst = int(past[0])
        by_layer = log.layer_values.get(LAYERED[name])
        where = ""
        if by_layer is not None and np.isfinite(by_layer[worst]).any():
            row = np.where(np.isfinite(by_layer[worst]), sign * by_layer[worst], -np.inf)
            where = f" in {log.layers[int(row.argmax())]}"
        found.append(
            f"{subject} was {words.number(float(values[worst]), 3)} at step "
            f"{words.count(log.probe_step[worst])}{where}, past its alarm of {words.number(limit)}"
        )
    return found
