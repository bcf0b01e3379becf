"""Strokes shared by the figures."""

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from homotopy_cli.report import words
from homotopy_cli.report.escaping import safe
from homotopy_cli.report.facts import Mark
from homotopy_cli.report.series import Curve
from homotopy_cli.report.theme import HEIGHT, base_figure, color

FEW = 60  # points; below it each gets a marker


def add_line(
    figure: go.Figure,
    curve: Curve,
    *,
    name: str,
    role: str,
    dash: str = "solid",
    width: float = 1.7,
    markers: bool | None = None,
    row: str = "",
    legend: bool = True,
    label: str = "",
    **trace: Any,
) -> None:
    """Draw a curve; few points, and points between two gaps, get markers."""
    few = len(curve.x) <= FEW if markers is None else markers
    alone = [] if few else curve.isolated
    marker: dict[str, Any] = {"color": color(role), "size": 5}
    if alone:
        sizes = [0] * len(curve.x)
        for i in alone:
            sizes[i] = 5
        marker["size"] = sizes
    trace.setdefault("yhoverformat", ".4~g")
    meta = {"role": role, "dash": dash, "width": width, "label": label or name}
    figure.add_trace(
        go.Scatter(
            x=curve.x,
            y=curve.y,
            name=name,
            mode="lines+markers" if few or alone else "lines",
            line={"color": color(role), "width": width, "dash": dash},
            marker=marker,
            yaxis=f"y{row}",
            connectgaps=False,
            meta=meta if legend else None,
            **trace,
        )
    )


def add_level(
    figure: go.Figure,
    y: float,
    *,
    label: str,
    role: str,
    dash: str = "dash",
    row: str = "",
    side: str = "right",
) -> None:
    """A horizontal line across the plot, labelled at one end; `y` in data units, log or not."""
    figure.add_shape(
        type="line",
        xref="x domain",
        x0=0,
        x1=1,
        yref=f"y{row}",
        y0=y,
        y1=y,
        line={"color": color(role), "width": 1.2, "dash": dash},
        layer="below",
    )
    log = figure.layout[f"yaxis{row}"].type == "log"
    figure.add_annotation(
        xref="x domain",
        x=1 if side == "right" else 0,
        xanchor=side,
        yref=f"y{row}",
        y=math.log10(y) if log else y,
        yanchor="bottom",
        text=label,
        showarrow=False,
        font={"size": 11, "color": color(role)},
        bgcolor=color("panel"),
        borderpad=1,
    )


def add_band(figure: go.Figure, low: float, high: float, *, role: str) -> None:
    """Shade the part of the plot between two levels."""
    figure.add_shape(
        type="rect",
        xref="x domain",
        x0=0,
        x1=1,
        yref="y",
        y0=low,
        y1=high,
        line={"width": 0},
        fillcolor=color(role),
        layer="below",
    )


_MARK_ROLES = {"spike": "red", "nonfinite": "red", "error": "red", "warning": "gold"}


def add_marks(figure: go.Figure, marks: Sequence[Mark]) -> None:
    """A thin vertical line at each marked step, through every row of the plot.

    The shape's name says what it marks; the page writes it above the plot where there is room,
    so the gravest come first.
    """
    for mark in sorted(marks, key=lambda mark: mark.level == "warning"):
        figure.add_shape(
            type="line",
            name=mark_name(mark),
            xref="x",
            x0=mark.step,
            x1=mark.step,
            yref="paper",
            y0=0,
            y1=1,
            line={"color": color(_MARK_ROLES[mark.level]), "width": 1, "dash": "dot"},
            opacity=0.8,
            layer="below",
        )


def mark_name(mark: Mark) -> str:
    """What a marked step is, short: spike 169. Escaped, since plotly reads it as markup."""
    said = mark.label.removeprefix("loss ").replace("_", " ").lower()
    return safe(f"{words.shorten(said, 18)} {words.count(mark.step)}")


def alert_marker() -> dict[str, Any]:
    """The triangle of what a reader must not miss: a spike, an alarm."""
    return {
        "symbol": "triangle-down",
        "size": 10,
        "color": color("red"),
        "line": {"width": 1.5, "color": color("panel")},
    }


def log_axis(figure: go.Figure, *, row: str = "") -> None:
    """Make a vertical axis logarithmic, with ticks at decades where they fit."""
    figure.layout[f"yaxis{row}"].type = "log"


def stacked_figure(labels: Sequence[str], *, height: int = HEIGHT) -> go.Figure:
    """A figure of rows that share x; row i draws on axis y, y2, y3, ... from the top."""
    n = len(labels)
    figure = base_figure(height=height)
    gap = min(0.16, 40 / height)
    share = (1 - gap * (n - 1)) / n
    for i, label in enumerate(labels):
        top = 1 - i * (share + gap)
        axis = {
            "domain": [max(0.0, top - share), top],
            "nticks": 4,
            "anchor": "x",
        }
        figure.update_layout({f"yaxis{row_suffix(i)}": axis})
        if n > 1:
            figure.add_annotation(
                xref="paper",
                x=0,
                xanchor="left",
                yref="paper",
                y=top,
                yanchor="bottom",
                text=label,
                showarrow=False,
                font={"size": 11.5, "color": color("muted")},
            )
    if n > 1:
        figure.update_layout(xaxis={"anchor": f"y{row_suffix(n - 1)}"}, margin={"t": 22})
    return figure


def row_suffix(i: int) -> str:
    """Plotly's axis suffix of row i: nothing, 2, 3, ..."""
    return "" if i == 0 else str(i + 1)
