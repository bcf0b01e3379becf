"""The Hessian's spectrum: eigenvalue density or single eigenvalues, with a slider over steps."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from homotopy_cli.report import words
from homotopy_cli.report.panel import Panel, Table
from homotopy_cli.report.series import rounded
from homotopy_cli.report.theme import base_figure, color
from homotopy_cli.runlog.reader import RunLog, Spectrum

GRID = 400  # points of a density curve
FRAMES = 60  # spectra behind the slider
FLOOR = 1e-6  # of the peak; densities below are drawn at it


def whole_model(log: RunLog) -> list[Spectrum]:
    """The whole model's spectra with any finite value, by step; densities win over lists."""
    usable = [
        s
        for s in log.spectra
        if s.layer == -1 and (np.isfinite(s.values) & np.isfinite(s.weights)).any()
    ]
    densities = [s for s in usable if is_density(s)]
    return sorted(densities or usable, key=lambda s: s.step)


def is_density(spectrum: Spectrum) -> bool:
    """Whether the values are quadrature nodes. Equal weights are a list of eigenvalues.

    A probe without a density logs its eigenvalues with weights 1/n; nodes of stochastic Lanczos
    quadrature never all weigh the same.
    """
    weights = np.asarray(spectrum.weights)
    weights = weights[np.isfinite(weights)]
    return spectrum.kind == "density" and len(weights) > 1 and bool(np.ptp(weights) > 0)


def broadened(spectrum: Spectrum) -> tuple[np.ndarray, np.ndarray]:
    """A density on a grid: Gaussians of the nodes' weights. Unit: 1 / eigenvalue.

    The width is 1 % of the spectrum's span, our choice: narrower shows the quadrature's nodes
    as teeth, wider hides the gap between the bulk and the outliers.
    """
    finite = np.isfinite(spectrum.values) & np.isfinite(spectrum.weights)
    nodes = np.asarray(spectrum.values, dtype=np.float64)[finite]
    weights = np.asarray(spectrum.weights, dtype=np.float64)[finite]
    low, high = float(nodes.min()), float(nodes.max())
    span = (high - low) or max(abs(high), 1e-12)
    sigma = 0.01 * span
    x = np.linspace(low - 4 * sigma, high + 4 * sigma, GRID)
    kernel = np.exp(-0.5 * ((x[:, None] - nodes) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    return x, kernel @ weights


def _frame(spectrum: Spectrum) -> dict[str, Any]:
    if is_density(spectrum):
        x, y = broadened(spectrum)
        floor = FLOOR * float(y.max() or 1.0)
        return {
            "x": [rounded(v, 5) for v in x],
            "y": [rounded(max(v, floor), 4) for v in y],
            "step": spectrum.step,
        }
    values = np.sort(np.asarray(spectrum.values, dtype=np.float64))
    values = values[np.isfinite(values)][::-1]
    return {
        "x": list(range(1, len(values) + 1)),
        "y": [rounded(v) for v in values],
        "step": spectrum.step,
    }


def spectrum_figure(log: RunLog) -> go.Figure:
    """The latest spectrum of the whole model."""
    spectra = whole_model(log)
    if not spectra:
        return base_figure(x_title="eigenvalue")
    latest = spectra[-1]
    frame = _frame(latest)
    density = is_density(latest)
    figure = base_figure(x_title="eigenvalue" if density else "rank")
    if density:
        figure.add_trace(
            go.Scatter(
                x=frame["x"],
                y=frame["y"],
                name="density",
                mode="lines",
                line={"color": color("blue"), "width": 2},
                fill="tozeroy",
                fillcolor=color("blue_band"),
                hovertemplate="%{y:.3~g}<extra></extra>",
            )
        )
        top = float(np.log10(max(frame["y"])))
        figure.update_yaxes(type="log", range=[top + float(np.log10(FLOOR)), top + 0.3])
        figure.add_vline(x=0, line={"color": color("axis"), "width": 1})
    else:
        figure.add_trace(
            go.Bar(
                x=frame["x"],
                y=frame["y"],
                name="eigenvalue",
                marker={"color": color("blue")},
                width=min(0.5, 0.06 * len(frame["x"])),
                hovertemplate="%{y:.5~g}<extra></extra>",
            )
        )
        ticks = {"tickmode": "linear", "dtick": 1} if len(frame["x"]) <= 20 else {}
        figure.update_xaxes(**ticks)
        figure.add_hline(y=0, line={"color": color("axis"), "width": 1})
    return figure


def spectrum_panel(log: RunLog) -> Panel:
    """The panel: where the eigenvalues lie; a slider if there are several steps."""
    key, title = "spectrum", "Spectrum"
    spectra = whole_model(log)
    if not spectra:
        return Panel(
            key,
            title,
            "No spectrum was recorded.",
            empty="This log has no spectra of the whole model. `homotopy probe --density` "
            "measures one.",
            linked=False,
        )
    same = [s for s in spectra if is_density(s) == is_density(spectra[-1])]
    chosen = np.unique(np.linspace(0, len(same) - 1, min(FRAMES, len(same))).round().astype(int))
    frames = [_frame(same[i]) for i in chosen]
    notes = []
    if len(frames) < len(same):
        notes.append(
            f"{words.count(len(frames))} of {words.count(len(same))} spectra on the slider, "
            "evenly spaced, first and last kept"
        )
    extra: dict[str, Any] = {"kind": "spectrum", "frames": frames} if len(frames) > 1 else {}
    density = is_density(same[-1])
    return Panel(
        key,
        "Density of eigenvalues" if density else "Eigenvalues",
        _finding(same[-1], len(same)),
        spectrum_figure(log),
        "share per unit of eigenvalue" if density else "eigenvalue, by rank (loss / parameter²)",
        tuple(notes),
        _table(same[-1]),
        linked=False,
        wide=len(log.probe_step) == 1,
        extra=extra,
    )


def _finding(latest: Spectrum, n: int) -> str:
    values = np.asarray(latest.values, dtype=np.float64)
    keep = np.isfinite(values)
    values = values[keep]
    low, high = float(values.min()), float(values.max())
    parts = [f"eigenvalues from {words.number(low, 3)} to {words.number(high, 3)}"]
    if len(values) == 1:
        parts = [f"one eigenvalue, {words.number(low, 4)}"]
    if is_density(latest):
        weights = np.asarray(latest.weights, dtype=np.float64)[keep]
        total = float(weights.sum()) or 1.0
        near = float(weights[np.abs(values) <= 0.01 * max(abs(low), abs(high))].sum()) / total
        negative = float(weights[values < 0].sum()) / total
        parts.append(
            f"{words.percent(near)} of the weight within 1{words.THIN_SPACE}% of zero, "
            f"{words.percent(negative)} negative"
        )
    if n > 1:
        spectra = words.plural(n, "spectrum", "spectra")
        parts.append(f"step {words.count(latest.step)}, the latest of {spectra}")
    return words.sentences(parts)


def _table(spectrum: Spectrum) -> Table:
    order = np.argsort(-np.asarray(spectrum.values, dtype=np.float64), kind="stable")[:40]
    density = is_density(spectrum)
    rows = tuple(
        (
            words.count(rank + 1),
            words.number(float(spectrum.values[i]), 6),
            *((words.number(float(spectrum.weights[i]), 3),) if density else ()),
        )
        for rank, i in enumerate(order)
    )
    head = ("rank", "eigenvalue", "weight") if density else ("rank", "eigenvalue")
    caption = f"{words.count(len(rows))} of {words.plural(len(spectrum.values), 'value')}, step "
    return Table(head, rows, caption + words.count(spectrum.step), ())
