"""What measuring cost: the probes' share of the time, step by step and in all."""

import numpy as np
import plotly.graph_objects as go

from homotopy_cli.report import words
from homotopy_cli.report.facts import setting
from homotopy_cli.report.figures.draw import add_level, add_line
from homotopy_cli.report.metrics import overhead
from homotopy_cli.report.panel import Panel, data_table
from homotopy_cli.report.series import column, curve
from homotopy_cli.report.theme import base_figure
from homotopy_cli.runlog.reader import RunLog


def cumulative_share(log: RunLog) -> np.ndarray | None:
    """Percent of all seconds until each step that probes took, (n,); None if not recorded."""
    spent, total = column(log.steps, "probe_seconds_step"), column(log.steps, "step_seconds")
    if total is None:
        return None
    if spent is None:
        seconds = column(log.probes, "probe_seconds")
        if seconds is None:
            return None
        spent = np.zeros(len(log.step))
        at = np.searchsorted(log.step, log.probe_step)
        inside = at < len(log.step)
        np.add.at(spent, at[inside], np.nan_to_num(seconds[inside]))
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * np.cumsum(np.nan_to_num(spent)) / np.cumsum(np.nan_to_num(total))


def _build(log: RunLog, share: np.ndarray) -> tuple[go.Figure, list[str]]:
    figure = base_figure()
    line = curve(log.step, share, "share", gaps=False)
    add_line(figure, line, name="probe share of the time so far", role="blue", width=2.0)
    budget = setting(log, "curvature", "budget")
    if isinstance(budget, (int, float)) and not isinstance(budget, bool) and budget > 0:
        label = f"budget {words.percent(budget)}"
        add_level(figure, 100 * budget, label=label, role="teal", side="left")
    figure.update_yaxes(rangemode="tozero", ticksuffix=" %")
    return figure, list(line.notes)


def overhead_panel(log: RunLog) -> Panel:
    """The panel: seconds, products, share."""
    key, title = "overhead", "Cost of measuring"
    share = cumulative_share(log)
    if share is None:
        empty = "This log has no columns step_seconds and probe_seconds."
        return Panel(key, title, overhead_sentence(log) or "Not recorded.", empty=empty)
    figure, notes = _build(log, share)
    table = data_table("step", log.step, {"probe share, %": share})
    text = overhead_sentence(log)
    return Panel(key, title, text, figure, "% of time", tuple(notes), table)


def overhead_sentence(log: RunLog) -> str:
    """Share, seconds and products in words; empty if nothing is known."""
    parts = []
    share = overhead(log)
    if share is not None:
        parts.append(f"probes took {words.percent(share)} of the run's time")
    products = column(log.probes, "n_hvp")
    if products is not None:
        total, n = float(np.nansum(products)), int(np.isfinite(products).sum())
        each = f", {words.number(total / n, 3)} each" if n > 1 else ""
        parts.append(
            f"{words.plural(n, 'probe')} spent {words.number(total, 4)} "
            f"Hessian-vector products{each}"
        )
    return words.sentences(parts)
