"""Training and held-out loss."""

import numpy as np
import plotly.graph_objects as go

from homotopy_cli.report import spikes as spike_rule
from homotopy_cli.report import words
from homotopy_cli.report.figures.draw import add_line, alert_marker, log_axis
from homotopy_cli.report.panel import Panel, data_table
from homotopy_cli.report.series import (
    Curve,
    absence,
    column,
    curve,
    first_finite,
    last_finite,
    rounded,
    trailing_mean,
    wants_log,
)
from homotopy_cli.report.theme import base_figure, color
from homotopy_cli.runlog.reader import RunLog


def smoothing_window(n: int) -> int:
    """Rows of the trailing mean: 2 % of the run; 1 for runs too short to smooth."""
    return 1 if n < 100 else max(5, n // 50)


def _build(
    log: RunLog,
    loss: np.ndarray | None,
    evals: np.ndarray | None,
    baseline: RunLog | None,
) -> tuple[go.Figure, list[str]]:
    figure = base_figure(height=340)
    notes: list[str] = []
    if baseline is not None:
        _add_baseline(figure, baseline)
    if loss is not None:
        notes += _add_loss(figure, log.step, loss)
    if evals is not None:
        held_out = curve(log.eval_step, evals, "eval_loss")
        add_line(figure, held_out, name="held out", role="orange", dash="dash", markers=True)
        notes += held_out.notes
    return figure, notes


def _add_loss(figure: go.Figure, steps: np.ndarray, loss: np.ndarray) -> list[str]:
    raw = curve(steps, loss, "loss")
    window = smoothing_window(len(loss))
    if window == 1:
        add_line(figure, raw, name="training", role="blue")
    else:
        add_line(figure, raw, name="training, each step", role="blue_soft", width=1)
        mean = curve(steps, trailing_mean(loss, window), "mean")
        add_line(
            figure, mean, name=f"mean of the last {words.count(window)}", role="blue", width=2.2
        )
    events = spike_rule.find_spikes(loss)
    seen = [s for s in events if np.isfinite(s.peak)]
    if seen:
        figure.add_trace(
            go.Scatter(
                x=[int(steps[s.peak_row]) for s in seen],
                y=[rounded(s.peak) for s in seen],
                text=[f"{words.number(s.score, 3)} sd, {s.kind}" for s in seen],
                name="spike",
                mode="markers",
                marker=alert_marker(),
                hovertemplate="%{y:.4~g} (%{text})",
                meta={"role": "red", "swatch": "marker"},
            )
        )
    bad = ~np.isfinite(loss)
    if bad.any():
        _shade_gaps(figure, steps, bad)
    return list(raw.notes)


def _shade_gaps(figure: go.Figure, steps: np.ndarray, bad: np.ndarray) -> None:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], bad, [False]]).astype(np.int8)))
    for start, stop in list(zip(edges[::2], edges[1::2] - 1, strict=True))[:12]:
        figure.add_shape(
            type="rect",
            xref="x",
            x0=int(steps[start]),
            x1=int(steps[stop]),
            yref="paper",
            y0=0,
            y1=1,
            line={"width": 0},
            fillcolor=color("danger_band"),
            layer="below",
        )


def _add_baseline(figure: go.Figure, baseline: RunLog) -> None:
    values = column(baseline.steps, "loss")
    if values is None:
        return
    window = smoothing_window(len(values))
    drawn: Curve = curve(baseline.step, trailing_mean(values, window), "baseline")
    add_line(figure, drawn, name="baseline", role="grey", dash="dot", width=1.8)


def loss_panel(log: RunLog, baseline: RunLog | None = None) -> Panel:
    """The panel: did it train, in one sentence."""
    loss = column(log.steps, "loss")
    evals = column(log.evals, "eval_loss")
    title, key = "Loss", "loss"
    recorded = np.asarray(log.steps.get("loss", np.empty(0)), dtype=np.float64)
    if loss is None and evals is None:
        if len(recorded):
            said = words.gaps("loss", log.step, recorded)
            return Panel(key, title, said, empty="No finite loss.", news=True)
        empty = absence(log.steps, log.step, "loss")
        return Panel(key, title, "No loss was recorded.", empty=empty, news=True)
    figure, notes = _build(log, loss, evals, baseline)
    columns = {"loss": loss} if loss is not None else {}
    values = loss if loss is not None else evals
    if wants_log(values):
        log_axis(figure)
    table = data_table("step", log.step, columns) if columns else None
    return Panel(
        key,
        title,
        _finding(log, loss, evals),
        figure,
        "loss",
        tuple(notes),
        table,
        wide=True,
        log_switch=bool(np.nanmin(np.where(np.isfinite(values), values, np.inf)) > 0),
    )


def _finding(log: RunLog, loss: np.ndarray | None, evals: np.ndarray | None) -> str:
    parts = []
    if loss is not None:
        first, last = first_finite(loss), last_finite(loss)
        best = int(np.nanargmin(np.where(np.isfinite(loss), loss, np.nan)))
        text = f"{words.number(last)} in one step"
        if len(loss) > 1:
            text = f"from {words.number(first)} to {words.number(last)}"
            text += f", lowest {words.number(loss[best])} at step {words.count(log.step[best])}"
        parts.append(text)
    if evals is not None:
        last = last_finite(evals)
        best = float(np.nanmin(np.where(np.isfinite(evals), evals, np.nan)))
        text = f"held-out loss ended at {words.number(last)}"
        if last is not None and last > best:
            text += f", best {words.number(best)}"
        parts.append(text)
    return words.sentences(parts)
