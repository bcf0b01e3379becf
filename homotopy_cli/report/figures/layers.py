"""Curvature layer by layer over time: a ranked heat map, or bars for a single probe."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from homotopy_cli.report import words
from homotopy_cli.report.escaping import safe, visible
from homotopy_cli.report.layers import (
    COMPONENT_MEASURES,
    MEASURES,
    SMALL_IS_WORST,
    latest,
    measured,
    order_by,
    rank,
)
from homotopy_cli.report.panel import Panel, Table
from homotopy_cli.report.series import rounded
from homotopy_cli.report.theme import base_figure, color
from homotopy_cli.report.thin import bin_columns
from homotopy_cli.runlog.reader import RunLog

COLUMNS = 160  # probes drawn; more are joined, each cell then holds its largest value
SHOWN = 24  # layers drawn before the reader asks for all
ROW_HEIGHT, FRAME_HEIGHT = 19, 70  # px
LABEL_WIDTH = 30  # characters
Measures = Mapping[str, tuple[str, str]]  # column -> label, unit


def layers_figure(log: RunLog, measures: Measures = MEASURES) -> go.Figure:
    """The most curved layers over probes, log10 colour; bars if there is one probe."""
    measures = repeated_first(log, measures)
    columns, ranking = measured(log, measures), rank(log, measures)
    figure = base_figure(height=FRAME_HEIGHT + ROW_HEIGHT * SHOWN)
    if ranking is None:
        return figure
    rows = order_by(ranking.measure, columns[ranking.measure])[:SHOWN]
    height = FRAME_HEIGHT + ROW_HEIGHT * len(rows)
    names = [safe(words.shorten(log.layers[i], LABEL_WIDTH)) for i in rows]
    full = [safe(log.layers[i]) for i in rows]
    axis = {
        "autorange": "reversed",
        "tickmode": "array",
        "tickvals": list(range(len(rows))),
        "ticktext": names,
        "showgrid": False,
        "fixedrange": True,
        "ticklabelstandoff": 6,
    }
    if measured_once(columns[ranking.measure]):
        return _bars(ranking.latest[rows], full, axis, ranking.label, height)
    x, z = _matrix(log, ranking.measure, columns[ranking.measure])
    figure.add_trace(
        go.Heatmap(
            x=x,
            y=list(range(len(rows))),
            z=[z[i] for i in rows],
            colorscale="Viridis",
            colorbar={
                "title": {"text": f"log₁₀ {ranking.label}", "side": "right"},
                "thickness": 10,
                "outlinewidth": 0,
                "len": 1,
                "nticks": 6,
                "tickfont": {"size": 11, "color": color("muted")},
            },
            hoverongaps=False,
            xgap=0,
            ygap=1,
            hovertemplate="%{customdata}: 10^%{z:.2f}<extra></extra>",
            customdata=[[f"{name}<br>step {step}" for step in x[:-1]] for name in full],
        )
    )
    figure.update_layout(height=height, yaxis=axis, hovermode="closest")
    return figure


def _bars(
    values: np.ndarray, full: list[str], axis: dict[str, Any], label: str, height: int
) -> go.Figure:
    figure = base_figure(x_title=label, height=height)
    figure.add_trace(
        go.Bar(
            x=[rounded(v) if np.isfinite(v) else None for v in values],
            y=list(range(len(full))),
            customdata=full,
            orientation="h",
            marker={"color": color("blue")},
            hovertemplate="%{customdata}: %{x:.4~g}<extra></extra>",
        )
    )
    figure.update_layout(yaxis=axis, hovermode="closest", bargap=0.35)
    return figure


def repeated_first(log: RunLog, measures: Measures) -> Measures:
    """The measures, those that several probes measured first: they show something over time."""
    columns = measured(log, measures)
    order = sorted(columns, key=lambda name: measured_once(columns[name]))
    return {name: measures[name] for name in order}


def measured_once(values: np.ndarray) -> bool:
    """Whether only one probe measured layers: bars then, there is no time axis."""
    return int(np.isfinite(values).any(axis=1).sum()) <= 1


def _matrix(
    log: RunLog, name: str, values: np.ndarray
) -> tuple[list[int], list[list[float | None]]]:
    """Edges in steps (b + 1,) and log10 of each layer's values (L, b).

    A measurement holds until the next one, the last to the end of the run; a cell of several
    probes shows the largest, or the smallest where small is worst.
    """
    edges = bin_columns(len(log.probe_step), COLUMNS)
    shown = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    worst = np.fmin if name in SMALL_IS_WORST else np.fmax
    binned = worst.reduceat(shown, edges[:-1], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.log10(binned).T
    measured_columns = np.isfinite(binned).any(axis=1)
    x = log.probe_step[edges[:-1]][measured_columns]
    rows = [
        [round(float(v), 2) if np.isfinite(v) else None for v in row]
        for row in z[:, measured_columns]
    ]
    end = max([int(log.probe_step[-1]) + 1, *(int(step) + 1 for step in log.step[-1:])])
    return [*(int(step) for step in x), end], rows


def layers_panel(log: RunLog) -> Panel:
    """The panel: which layers are most curved; all of them for the page's filter box."""
    if rank(log) is None:
        empty = (
            "This log names no layers."
            if not log.layers
            else f"None of layer_lambda_max, layer_kappa, layer_trace was recorded for the "
            f"{words.plural(len(log.layers), 'layer')}."
        )
        said = "No curvature per layer was recorded."
        return Panel("layers", "Curvature by layer", said, empty=empty)
    return _panel(log, MEASURES, "layers", "Curvature by layer", _finding(log))


def component_layers_panel(log: RunLog) -> Panel | None:
    """The panel: attention and norms layer by layer; None if no column of theirs was logged."""
    columns = measured(log, COMPONENT_MEASURES)
    if not columns:
        return None
    parts = []
    for name, values in columns.items():
        worst = order_by(name, values)[0]
        word = "smallest" if name in SMALL_IS_WORST else "largest"
        value = words.number(float(latest(values)[worst]), 3)
        parts.append(f"{word} {COMPONENT_MEASURES[name][0]} {value} in {log.layers[worst]}")
    title, finding = "Attention and norms by layer", words.sentences([words.join(parts)])
    return _panel(log, COMPONENT_MEASURES, "component-layers", title, finding)


def _panel(log: RunLog, measures: Measures, key: str, title: str, finding: str) -> Panel:
    measures = repeated_first(log, measures)
    columns, ranking = measured(log, measures), rank(log, measures)
    assert ranking is not None
    single = measured_once(columns[ranking.measure])
    notes = []
    edges = bin_columns(len(log.probe_step), COLUMNS)
    if len(edges) - 1 < len(log.probe_step):
        notes.append(
            f"{words.count(len(edges) - 1)} of {words.count(len(log.probe_step))} probes drawn, "
            "each cell the largest of its probes"
            + (" (entropy and σ: the smallest)" if set(columns) & set(SMALL_IS_WORST) else "")
        )
    unseen = int((np.isfinite(columns[ranking.measure]) & (columns[ranking.measure] <= 0)).sum())
    if unseen and not single:
        notes.append(f"{words.plural(unseen, 'value')} ≤ 0 not drawn on the log colours")
    known = np.isfinite(np.stack(list(columns.values()))).any(axis=(0, 1))
    order = ranking.order[known[ranking.order]]
    return Panel(
        key,
        title,
        finding,
        layers_figure(log, measures),
        "ranked by the latest probe" + ("" if single else "; each value holds until the next"),
        tuple(notes),
        _table(log, columns, measures, order),
        linked=not single,
        wide=True,
        extra=_extra(log, columns, measures, order, single),
    )


def _extra(
    log: RunLog,
    columns: dict[str, np.ndarray],
    measures: Measures,
    order: np.ndarray,
    single: bool,
) -> dict[str, Any]:
    names = [visible(log.layers[i]) for i in order]
    place = {int(layer): at for at, layer in enumerate(order)}
    shown = []
    for name, values in columns.items():
        label, unit = measures[name]
        mine = {
            "label": label,
            "unit": unit,
            "order": [place[int(i)] for i in order_by(name, values)],
        }
        if single:
            now = latest(values)[order]
            bars = [rounded(v) if np.isfinite(v) else None for v in now]
            shown.append({**mine, "bars": bars})
        elif (values > 0).any():
            x, z = _matrix(log, name, values)
            shown.append({**mine, "x": x, "z": [z[i] for i in order]})
    return {
        "kind": "layers",
        "names": names,
        "short": [words.shorten(name, LABEL_WIDTH) for name in names],
        "measures": shown,
        "shown": SHOWN,
        "rowHeight": ROW_HEIGHT,
        "frameHeight": FRAME_HEIGHT,
    }


def _finding(log: RunLog) -> str:
    ranking = rank(log)
    assert ranking is not None
    top = [
        f"{log.layers[i]} ({words.number(float(ranking.latest[i]), 3)})"
        for i in ranking.order[:3]
        if np.isfinite(ranking.latest[i])
    ]
    finite = ranking.latest[np.isfinite(ranking.latest)]
    text = f"Largest {ranking.label}: {words.join(top)}"
    if len(finite) > 3:
        text += (
            f"; the median of {words.plural(len(finite), 'layer')} is "
            f"{words.number(float(np.median(finite)), 3)}"
        )
    return text + "."


def _table(
    log: RunLog, columns: dict[str, np.ndarray], measures: Measures, order: np.ndarray
) -> Table:
    now = {name: latest(values) for name, values in columns.items()}
    rows = tuple(
        (
            log.layers[i],
            log.layer_kind[i] if i < len(log.layer_kind) else "",
            words.count(log.layer_numel[i])
            if i < len(log.layer_numel) and log.layer_numel[i] >= 0
            else words.NONE,
            *(words.number(_known(values[i])) for values in now.values()),
        )
        for i in order
    )
    head = ("layer", "kind", "parameters", *(measures[name][0] for name in columns))
    ranked_by = measures[next(iter(columns))][0]
    caption = f"{words.plural(len(rows), 'layer')}, latest values, ranked by {ranked_by}"
    return Table(head, rows, caption, (0, 1))


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
