"""Gradient norm, update norm and clipping, one row each."""

import numpy as np
import plotly.graph_objects as go

from homotopy_cli.report import words
from homotopy_cli.report.figures.draw import add_line, log_axis, row_suffix, stacked_figure
from homotopy_cli.report.panel import Panel, data_table
from homotopy_cli.report.series import absence, column, curve, failed, wants_log
from homotopy_cli.runlog.reader import RunLog

NORMS_HEIGHT = 340  # px: three rows, as tall as its neighbour on the page
ROWS = (
    ("grad_norm", "gradient norm (loss/parameter)", "blue"),
    ("update_norm", "update norm (parameter)", "teal"),
    ("clip_coef", "clipping factor (1 = none)", "orange"),
)


def _measured(log: RunLog) -> dict[str, np.ndarray]:
    found = {name: column(log.steps, name) for name, *_ in ROWS}
    clip = found["clip_coef"]
    if clip is not None and not (clip < 1 - 1e-9).any():
        found["clip_coef"] = None  # never acted: a flat line says nothing
    return {name: values for name, values in found.items() if values is not None}


def _build(log: RunLog, columns: dict[str, np.ndarray]) -> tuple[go.Figure, list[str]]:
    rows = [row for row in ROWS if row[0] in columns]
    figure = stacked_figure([label for _, label, _ in rows], height=NORMS_HEIGHT)
    notes: list[str] = []
    for i, (name, label, role) in enumerate(rows):
        values, row = columns[name], row_suffix(i)
        positive = name != "clip_coef" and wants_log(values, decades=1.0)
        if positive:
            log_axis(figure, row=row)
        line = curve(log.step, values, name, positive=positive)
        add_line(
            figure, line, name=label.split(" (")[0], role=role, width=1.3, row=row, legend=False
        )
        notes += line.notes
    return figure, notes


def norms_panel(log: RunLog) -> Panel:
    """The panel: how large gradients and steps were, how often clipping acted."""
    key, title = "norms", "Gradient and update"
    columns = _measured(log)
    if not columns:
        empty = absence(log.steps, log.step, "grad_norm", "update_norm")
        news = "grad_norm" in log.missing or failed(log.steps, "grad_norm", "update_norm")
        return Panel(key, title, "No norm was recorded.", empty=empty, news=news)
    figure, notes = _build(log, columns)
    parts = []
    for name in ("grad_norm", "update_norm"):
        values = columns.get(name)
        if values is not None and np.isfinite(values).any():
            finite = values[np.isfinite(values)]
            told = name.replace("grad_", "gradient ").replace("update_", "update ")
            largest = words.number(float(finite.max()), 3)
            if len(finite) > 1:
                middle = words.number(float(np.median(finite)), 3)
                parts.append(f"{told} median {middle}, largest {largest}")
            else:
                parts.append(f"{told} {largest}")
    clip = columns.get("clip_coef")
    if clip is not None:
        acted = int((clip < 1 - 1e-9).sum())
        parts.append(f"clipping acted on {words.percent(acted / len(clip))} of the steps")
    elif column(log.steps, "clip_coef") is not None:
        parts.append("clipping never acted")
    unit = ROWS[0][1] if len(columns) == 1 and "grad_norm" in columns else ""
    table = data_table("step", log.step, columns)
    return Panel(key, title, words.sentences(parts), figure, unit, tuple(notes), table)
