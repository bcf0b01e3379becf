"""Sharpness against its edge, the Hessian's two ends, and kappa."""

import numpy as np
import plotly.graph_objects as go

from homotopy_cli.report import words
from homotopy_cli.report.figures.draw import add_line, log_axis
from homotopy_cli.report.figures.edge import SIGNALS, edge_of
from homotopy_cli.report.panel import Panel, data_table
from homotopy_cli.report.series import (
    absence,
    column,
    curve,
    failed,
    first_finite,
    last_finite,
    probed,
    unconverged,
    wants_log,
)
from homotopy_cli.report.theme import base_figure
from homotopy_cli.runlog.reader import RunLog

LARGE = 10.0  # times its median: a ‖H‖ that explains a κ by itself; our choice


def _measured(log: RunLog, *names: str) -> dict[str, np.ndarray]:
    found = {name: column(log.probes, name) for name in names}
    return {name: values for name, values in found.items() if values is not None}


def _build_sharpness(log: RunLog, columns: dict[str, np.ndarray]) -> tuple[go.Figure, list[str]]:
    figure = base_figure()
    notes: list[str] = []
    positive = any(wants_log(values) for values in columns.values())
    if positive:
        log_axis(figure)
    edge = edge_of(log)
    if edge is not None and edge.signal in columns:
        line = curve(log.probe_step, edge.sharpness, "edge", positive=positive, gaps=False)
        add_line(figure, line, name=edge.name, role="red", dash="dash", width=1.5, markers=False)
    styles = {
        "directional_sharpness": ("teal", "dash", 1.4),
        "preconditioned_sharpness": ("blue", "solid", 2.0),
    }
    for name, (role, dash, width) in styles.items():
        if name in columns:
            line = curve(log.probe_step, columns[name], name, positive=positive, gaps=False)
            add_line(figure, line, name=SIGNALS[name], role=role, dash=dash, width=width)
            notes += line.notes
    return figure, notes


def sharpness_panel(log: RunLog) -> Panel:
    """The panel: the curvature the optimizer itself feels."""
    key, title = "sharpness", "Preconditioned sharpness"
    columns = _measured(log, "preconditioned_sharpness", "directional_sharpness")
    if not columns:
        return Panel(
            key,
            title,
            "Curvature in the optimizer's own metric was not recorded.",
            empty=absence(log.probes, log.probe_step, "preconditioned_sharpness")
            + " It is measured with optimizers that precondition (Adam, RMSprop, ...).",
            news=failed(log.probes, "preconditioned_sharpness", "directional_sharpness"),
        )
    figure, notes = _build_sharpness(log, columns)
    name, main = next(iter(columns.items()))
    subject = "directional sharpness" if name == "directional_sharpness" else SIGNALS[name]
    return Panel(
        key,
        title,
        _trend(subject, log, main),
        figure,
        "1/lr",
        tuple(notes),
        data_table("step", log.probe_step, columns),
        log_switch=True,
    )


def _build_eigenvalues(log: RunLog, columns: dict[str, np.ndarray]) -> tuple[go.Figure, list[str]]:
    figure = base_figure()
    notes: list[str] = []
    top, bottom = columns.get("lambda_max"), columns.get("lambda_min")
    norm = columns.get("hessian_norm")
    positive = top is not None and wants_log(top)
    if positive:
        log_axis(figure)
    edge = edge_of(log)
    if edge is not None and edge.signal == "lambda_max":
        line = curve(log.probe_step, edge.sharpness, "edge", positive=positive, gaps=False)
        add_line(figure, line, name=edge.name, role="red", dash="dash", width=1.5, markers=False)
    if norm is not None and top is None:
        line = curve(log.probe_step, norm, "hessian_norm", positive=positive, gaps=False)
        add_line(figure, line, name="‖H‖₂", role="blue", width=2.0)
        notes += line.notes
    if bottom is not None:
        shown = np.abs(bottom) if positive else bottom
        line = curve(log.probe_step, shown, "lambda_min", positive=positive, gaps=False)
        label = "|λ_min|" if positive else "λ_min"
        add_line(figure, line, name=label, role="orange", dash="dash", width=1.4)
        notes += line.notes
    if top is not None:
        line = curve(*probed(log, "lambda_max"), "lambda_max", positive=positive)
        add_line(figure, line, name="λ_max", role="blue", width=2.0)
        notes += line.notes
    return figure, notes


def eigenvalue_panel(log: RunLog) -> Panel:
    """The panel: the two ends of the Hessian's spectrum."""
    key, title = "eigenvalues", "Hessian eigenvalues"
    columns = _measured(log, "lambda_max", "lambda_min", "hessian_norm")
    if not columns:
        empty = absence(log.probes, log.probe_step, "lambda_max", "lambda_min")
        news = failed(log.probes, "lambda_max", "lambda_min")
        return Panel(key, title, "No eigenvalue was recorded.", empty=empty, news=news)
    figure, notes = _build_eigenvalues(log, columns)
    name, main = next(iter(columns.items()))
    parts = [_trend({"lambda_max": "λ_max", "lambda_min": "λ_min"}.get(name, "‖H‖₂"), log, main)]
    bottom = columns.get("lambda_min")
    if bottom is not None and name == "lambda_max":
        with np.errstate(invalid="ignore"):
            dominant = int((np.abs(bottom) > np.abs(main)).sum())
        if dominant:
            where = words.plural(dominant, "probe")
            parts.append(f"the most negative eigenvalue dominates at {where}")
    parts.append(unconverged(log, np.isfinite(main)))
    return Panel(
        key,
        title,
        words.sentences(parts),
        figure,
        "loss / parameter²",
        tuple(notes),
        data_table("step", log.probe_step, columns),
        log_switch=True,
    )


def _build_kappa(
    log: RunLog, values: np.ndarray, baseline: RunLog | None
) -> tuple[go.Figure, tuple[str, ...]]:
    figure = base_figure(height=340)
    positive = wants_log(values, decades=1.0)
    if positive:
        log_axis(figure)
    if baseline is not None and (other := column(baseline.probes, "kappa")) is not None:
        line = curve(baseline.probe_step, other, "baseline", positive=positive, gaps=False)
        add_line(figure, line, name="baseline", role="grey", dash="dot", width=1.5)
    line = curve(*probed(log, "kappa"), "kappa", positive=positive)
    add_line(figure, line, name="κ", role="violet", width=2.0)
    return figure, line.notes


def kappa_panel(log: RunLog, baseline: RunLog | None = None) -> Panel:
    """The panel: kappa as a number to watch, not a signal to steer by."""
    key, title = "kappa", "Curvature ratio κ"
    values = column(log.probes, "kappa")
    if values is None:
        empty = absence(log.probes, log.probe_step, "kappa")
        news = "kappa" in log.missing or failed(log.probes, "kappa")
        return Panel(key, title, "κ = ‖H‖ / ‖g‖² was not recorded.", empty=empty, news=news)
    figure, notes = _build_kappa(log, values, baseline)
    parts = [_trend("κ = ‖H‖ / ‖g‖²", log, values), _cause(log, values)]
    return Panel(
        key,
        title,
        words.sentences(parts),
        figure,
        "1 / loss",
        notes,
        data_table("step", log.probe_step, {"kappa": values}),
        log_switch=True,
    )


def _cause(log: RunLog, values: np.ndarray) -> str:
    """Which of both made κ largest: a small gradient, as at the end of training, or a large H."""
    plain, size = "it grows as the gradient vanishes", column(log.probes, "hessian_norm")
    if size is None or np.isfinite(values).sum() < 2:
        return plain
    at = float(size[int(np.nanargmax(np.where(np.isfinite(values), values, np.nan)))])
    usual = float(np.nanmedian(np.where(np.isfinite(size), size, np.nan)))
    if at > LARGE * usual:
        return f"there ‖H‖ was {words.number(at)}, {words.number(at / usual, 2)} times its median"
    return plain


def _trend(name: str, log: RunLog, values: np.ndarray) -> str:
    finite = np.where(np.isfinite(values), values, np.nan)
    first, last = first_finite(values), last_finite(values)
    if np.isfinite(values).sum() == 1:
        return f"{name} = {words.number(last)}"
    peak = int(np.nanargmax(finite))
    return (
        f"{name} from {words.number(first)} to {words.number(last)}, "
        f"largest {words.number(float(finite[peak]))} at step {words.count(log.probe_step[peak])}"
    )
