"""The learning rate used, what the schedule asked for, what curvature allowed, and why."""

from itertools import pairwise

import numpy as np
import plotly.graph_objects as go

from homotopy_cli.records import LR_REASONS
from homotopy_cli.report import words
from homotopy_cli.report.figures.draw import add_line, log_axis
from homotopy_cli.report.panel import Panel, data_table
from homotopy_cli.report.series import absence, column, curve, wants_log
from homotopy_cli.report.theme import base_figure, color
from homotopy_cli.report.thin import bin_columns
from homotopy_cli.runlog.reader import RunLog

# Every reason's colour, its name in the ribbon, and its rank: a bin of several shows the highest.
LOOKS: dict[str, tuple[str, str, int]] = {
    "schedule": ("grey", "by the schedule", 0),
    "ceiling": ("orange", "by the ceiling", 6),
    "release": ("gold", "rising back", 3),
    "floor": ("red", "at the floor", 7),
    "held": ("violet", "held", 5),
    "per_group": ("teal", "per group", 4),
    "rise": ("green", "held to the measured rise", 2),
    "scaled": ("blue", "scaled to its reach", 1),
}
_SEVERITY = np.array([LOOKS[name][2] for name in LR_REASONS])
RIBBON_BINS = 600  # our choice: about two pixels each


def _build(log: RunLog, baseline: RunLog | None) -> tuple[go.Figure, list[str]]:
    figure = base_figure(height=300)
    notes: list[str] = []
    lr = column(log.steps, "lr")
    reasons = column(log.steps, "lr_reason")
    if baseline is not None and (other := column(baseline.steps, "lr")) is not None:
        drawn = curve(baseline.step, other, "baseline lr")
        add_line(figure, drawn, name="baseline", role="grey", dash="dot", width=1.6)
    for name, label, role, dash in (
        ("schedule_lr", "schedule", "grey", "dash"),
        ("ceiling_lr", "curvature ceiling", "orange", "dot"),
    ):
        values = column(log.steps, name)
        if values is not None and not (lr is not None and np.array_equal(values, lr)):
            drawn = curve(log.step, values, name, gaps=False)
            add_line(figure, drawn, name=label, role=role, dash=dash, width=1.5, markers=False)
            notes += [note for note in drawn.notes if "non-finite" not in note]
    if lr is not None:
        drawn = curve(log.step, lr, "lr")
        hover = {}
        if reasons is not None:
            at = np.minimum(np.searchsorted(log.step, drawn.x), len(reasons) - 1)
            hover = {
                "text": [_reason(reasons[i]) for i in at],
                "hovertemplate": "%{y:.4~g} · %{text}",
            }
        add_line(figure, drawn, name="used", role="blue", width=2.2, **hover)
        notes += drawn.notes
    if reasons is not None:
        _add_ribbon(figure, log.step, reasons)
    return figure, notes


def _reason(code: float) -> str:
    known = np.isfinite(code) and 0 <= code < len(LR_REASONS)
    return LR_REASONS[int(code)] if known else "not recorded"


def _add_ribbon(figure: go.Figure, steps: np.ndarray, reasons: np.ndarray) -> None:
    edges = bin_columns(len(steps), RIBBON_BINS)
    known = (reasons >= 0) & (reasons < len(LR_REASONS))
    codes = np.where(known, reasons, -1).astype(int)
    severity = np.where(codes >= 0, _SEVERITY[codes], -1)
    worst = np.array([codes[a + severity[a:b].argmax()] for a, b in pairwise(edges)])
    cuts = np.flatnonzero(np.diff(worst)) + 1
    starts, stops = np.concatenate([[0], cuts]), np.concatenate([cuts, [len(worst)]])
    spans: dict[int, list[float | None]] = {}
    for start, stop in zip(starts, stops, strict=True):
        low, last = int(steps[edges[start]]), edges[stop]
        high = int(steps[last]) if last < len(steps) else int(steps[-1])
        spans.setdefault(int(worst[start]), []).extend([low, high, None])
    for code, reason in enumerate(LR_REASONS):
        if code in spans:
            role, name, _ = LOOKS[reason]
            figure.add_trace(
                go.Scatter(
                    x=spans[code],
                    y=[None if x is None else 0 for x in spans[code]],
                    name=name,
                    mode="lines",
                    line={"color": color(role), "width": 9},
                    yaxis="y2",
                    hoverinfo="skip",
                    meta={"role": role, "swatch": "band"},
                )
            )
    figure.update_layout(
        yaxis={"domain": [0.1, 1]},
        yaxis2={
            "domain": [0, 0.05],
            "range": [-1, 1],
            "visible": False,
            "fixedrange": True,
            "anchor": "x",
        },
        xaxis={"anchor": "y2"},
    )


def lr_panel(log: RunLog, baseline: RunLog | None = None) -> Panel:
    """The panel: what the scheduler did and why."""
    key, title = "lr", "Learning rate"
    lr = column(log.steps, "lr")
    if lr is None:
        empty = absence(log.steps, log.step, "lr")
        return Panel(key, title, "No learning rate was recorded.", empty=empty, news=True)
    figure, notes = _build(log, baseline)
    if wants_log(lr):
        log_axis(figure)
    else:
        figure.layout.yaxis.rangemode = "tozero"
    columns = {"lr": lr}
    for name in ("schedule_lr", "ceiling_lr"):
        values = column(log.steps, name)
        if values is not None:
            columns[name] = values
    return Panel(
        key,
        title,
        lr_finding(log),
        figure,
        "lr",
        tuple(notes),
        data_table("step", log.step, columns),
        wide=True,
        log_switch=True,
    )


def lr_finding(log: RunLog) -> str:
    """What the rate did, and how often each reason held."""
    lr = column(log.steps, "lr")
    if lr is None:
        return ""
    finite = np.isfinite(lr)
    if not finite.any():
        return "No finite learning rate."
    known = lr[finite]
    low, high = float(known.min()), float(known.max())
    if high - low <= 1e-12 * abs(high):
        parts = [f"constant at {words.rate(high)}"]
    else:
        top = int(log.step[np.flatnonzero(finite)[known.argmax()]])
        parts = [
            f"between {words.rate(low)} and {words.rate(high)}, "
            f"highest at step {words.count(top)}, {words.rate(float(known[-1]))} at the end"
        ]
    parts.append(reason_clause(log))
    return words.sentences(parts)


def reason_clause(log: RunLog) -> str:
    """On how many steps the rate was not the schedule's, where, and how deep the cut went."""
    lr, schedule = column(log.steps, "lr"), column(log.steps, "schedule_lr")
    reasons = column(log.steps, "lr_reason")
    if lr is None:
        return ""
    if reasons is not None:
        held = np.isfinite(reasons) & (reasons > 0) & (reasons < len(LR_REASONS))
    elif schedule is not None:
        held = lr < schedule * (1 - 1e-6)
    else:
        return ""
    if not held.any():
        return "the schedule ruled throughout"
    text = (
        f"curvature set the rate on {words.plural(int(held.sum()), 'step')} of "
        f"{words.count(len(lr))} ({words.at_steps(log.step, held)})"
    )
    if schedule is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            cut = np.where(held & (lr > 0), schedule / lr, np.nan)
        if np.isfinite(cut).any() and np.nanmax(cut[np.isfinite(cut)]) > 1.05:
            deepest = int(np.nanargmax(np.where(np.isfinite(cut), cut, np.nan)))
            times = float(cut[deepest])
            part = f"1/{words.number(times, 2)}" if times >= 10 else words.percent(1 / times)
            text += f", down to {part} of the schedule at step {words.count(log.step[deepest])}"
    return text
