"""Early signs of instability, one row each: what each step shows of itself, and its alarms."""

import numpy as np
import plotly.graph_objects as go

from homotopy_cli.records import ALARMS, SPIKE_AFTER
from homotopy_cli.report import spikes as spike_rule
from homotopy_cli.report import words
from homotopy_cli.report.alarms import LABELS, Alarm, alarms, before
from homotopy_cli.report.figures.draw import (
    add_level,
    add_line,
    alert_marker,
    log_axis,
    row_suffix,
    stacked_figure,
)
from homotopy_cli.report.panel import Panel, data_table
from homotopy_cli.report.series import column, curve, last_finite, rounded, wants_log
from homotopy_cli.report.theme import HEIGHT
from homotopy_cli.runlog.reader import RunLog

# column, label, role
ROWS = (
    ("update_rms", "update RMS, largest of a tensor", "blue"),
    ("second_moment_ratio", "second-moment ratio, largest of a tensor", "teal"),
    ("logit_max", "largest score", "violet"),
    ("noise_scale", "noise scale (examples)", "orange"),
)
ROW_HEIGHT, FRAME_HEIGHT = 88, 70  # px, as in figures/components.py
HEADROOM = 1.4  # the axis reaches this far beyond the largest value or limit: room for words


def _measured(log: RunLog) -> dict[str, np.ndarray]:
    found = {name: column(log.steps, name) for name, *_ in ROWS}
    return {name: values for name, values in found.items() if values is not None}


def _build(log: RunLog, columns: dict[str, np.ndarray]) -> tuple[go.Figure, list[str]]:
    rows = [row for row in ROWS if row[0] in columns]
    height = max(FRAME_HEIGHT + ROW_HEIGHT * len(rows), HEIGHT)  # no lower than its neighbours
    figure = stacked_figure([label for _, label, _ in rows], height=height)
    raised = alarms(log)
    notes: list[str] = []
    for i, (name, label, role) in enumerate(rows):
        values, row = columns[name], row_suffix(i)
        limit = ALARMS[name][1] if name in ALARMS else None
        seen = values if limit is None else np.append(values, limit)
        positive = wants_log(seen)
        if positive:
            log_axis(figure, row=row)
        line = curve(log.step, values, name, positive=positive, gaps=False)
        add_line(figure, line, name=label, role=role, width=1.3, row=row, legend=False)
        notes += line.notes
        if limit is not None:
            _reach(figure, seen, positive, row)
            words_for = f"alarm {words.number(limit)}"
            add_level(figure, limit, label=words_for, role="red", row=row)
            _mark(figure, [a for a in raised if a.name == name], row)
    return figure, notes


def _reach(figure: go.Figure, seen: np.ndarray, positive: bool, row: str) -> None:
    """The axis holds the curve and the limit: a line outside the plot would warn nobody."""
    finite = seen[np.isfinite(seen)]
    top = min(float(finite.max()), 1e307) * HEADROOM  # the largest floats would overflow
    if positive:
        low = float(finite[finite > 0].min()) / HEADROOM
        span = [float(np.log10(low)), float(np.log10(top)) + 0.1]
    else:
        span = [min(0.0, float(finite.min())), top]
    figure.layout[f"yaxis{row}"].range = [rounded(end) for end in span]


def _mark(figure: go.Figure, raised: list[Alarm], row: str) -> None:
    known = [a for a in raised if a.value is not None and a.value > 0]
    if not known:
        return
    figure.add_trace(
        go.Scatter(
            x=[a.step for a in known],
            y=[rounded(a.value) for a in known],
            name="alarm",
            mode="markers",
            marker=alert_marker(),
            hovertemplate="%{y:.4~g}",
            yaxis=f"y{row}",
        )
    )


def signs_panel(log: RunLog) -> Panel:
    """The panel: how near each sign came to its alarm, and what followed the alarms."""
    key, title = "signs", "Early signs"
    columns = _measured(log)
    if not columns:
        return Panel(
            key,
            title,
            "No early sign was recorded.",
            empty="This log has no column update_rms, second_moment_ratio, logit_max or "
            "noise_scale. Training records the first two with optimizers that keep second "
            "moments (Adam), logit_max for losses over classes, noise_scale with accumulate "
            "above 1.",
        )
    figure, notes = _build(log, columns)
    parts = []
    for name, (_, limit) in ALARMS.items():
        if name in columns:
            top = int(np.nanargmax(np.where(np.isfinite(columns[name]), columns[name], np.nan)))
            size, where = words.number(columns[name][top], 3), words.count(log.step[top])
            parts.append(f"largest {LABELS[name]} {size}, at step {where} (alarm {limit:g})")
    if "logit_max" in columns:
        parts.append(f"largest score {words.number(float(np.nanmax(columns['logit_max'])), 3)}")
    if "noise_scale" in columns:
        last = words.number(last_finite(columns["noise_scale"]), 2)
        parts.append(f"noise scale at the end {last} examples")
    parts.append(_followed(log))
    if set(columns) & set(ALARMS):
        notes.append("An alarm needs its limit and 6 sd above the recent mean")
    single = {"logit_max": "score", "noise_scale": "examples"}
    unit = single.get(next(iter(columns)), "") if len(columns) == 1 else ""
    table = data_table("step", log.step, columns)
    return Panel(
        key, title, words.sentences(parts), figure, unit, tuple(notes), table, wide=len(columns) > 2
    )


def _followed(log: RunLog) -> str:
    """How many alarms a loss spike followed."""
    raised = alarms(log)
    if not raised:
        return ""
    loss = column(log.steps, "loss")
    found = [] if loss is None else spike_rule.find_spikes(loss)
    starts = [int(log.step[spike.row]) for spike in found]
    hits = {a.step for start in starts for a in before(raised, start)}
    steps = sorted({a.step for a in raised})
    told = words.join([words.count(step) for step in steps[:4]]) + " …" * (len(steps) > 4)
    where = f"at step{'s' * (len(steps) > 1)} {told}"
    after = f"within {SPIKE_AFTER} steps"
    if not hits:
        return f"{words.plural(len(steps), 'alarm')}, {where}; no loss spike followed {after}"
    if len(steps) == 1:
        return f"1 alarm, {where}; a loss spike followed {after}"
    share = f"{words.count(len(hits))} of them"
    return f"{words.plural(len(steps), 'alarm')}, {where}; a loss spike followed {share} {after}"
