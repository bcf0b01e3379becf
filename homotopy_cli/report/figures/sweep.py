"""Runs that differ in their learning rate: final loss against it, the LR-sensitivity curve."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from homotopy_cli.report import words
from homotopy_cli.report.arms import IGNORED, arms
from homotopy_cli.report.escaping import safe
from homotopy_cli.report.facts import setting
from homotopy_cli.report.panel import Panel, Table
from homotopy_cli.report.series import column, first_finite, rounded
from homotopy_cli.report.theme import base_figure, color, run_style
from homotopy_cli.runlog.reader import RunLog

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")


def sweep_points(
    logs: Sequence[RunLog], metrics: Sequence[Mapping[str, float | int | None]]
) -> dict[str, list[tuple[float, float]]]:
    """Arm -> (lr, loss) sorted by lr; the held-out loss if every run has one.

    Runs whose recipes differ in learning rate and seed only are one arm.

    A run that diverged counts with its first loss, the value at which training is worthless:
    min(l, l0) of Wortsman et al. (2023).
    """
    held_out = all(run["val_loss"] is not None for run in metrics)
    name = "val_loss" if held_out else "final_loss"
    points: dict[str, list[tuple[float, float]]] = {}
    members = arms(logs, ignoring=(*IGNORED, "optimizer.lr"))
    arm_of = {run: arm.name for arm in members for run in arm.runs}
    for i, (log, run) in enumerate(zip(logs, metrics, strict=True)):
        lr = setting(log, "optimizer", "lr")
        if not isinstance(lr, (int, float)) or isinstance(lr, bool) or lr <= 0:
            continue
        loss = column(log.steps, "loss")
        start = first_finite(loss) if loss is not None else None
        values = [v for v in (run[name], start) if v is not None]
        if values:
            points.setdefault(arm_of[i], []).append((float(lr), float(min(values))))
    return {key: sorted(values) for key, values in points.items()}


def sweep_panel(
    logs: Sequence[RunLog], metrics: Sequence[Mapping[str, float | int | None]]
) -> Panel | None:
    """The panel, if at least three different learning rates were tried."""
    points = sweep_points(logs, metrics)
    if len({lr for values in points.values() for lr, _ in values}) < 3:
        return None
    figure = base_figure(x_title="learning rate of the recipe", height=320)
    best = min(loss for values in points.values() for _, loss in values)
    parts, rows = [], []
    for i, (name, values) in enumerate(points.items()):
        _add_arm(figure, name, values, i)
        excess = float(np.mean([loss - best for _, loss in values]))
        parts.append(f"{name} {words.number(excess, 3)}")
        rows += [(name, words.number(lr), words.number(loss)) for lr, loss in values]
    rates = sorted({lr for values in points.values() for lr, _ in values})
    shown = rates if len(rates) <= 12 else rates[:: -(-len(rates) // 12)]
    ticks = [words.rate(lr) for lr in shown]
    figure.update_xaxes(type="log", tickmode="array", tickvals=shown, ticktext=ticks)
    finding = words.sentences(
        [
            f"mean excess over the best loss {words.number(best)}: {words.join(parts)}; "
            "lower is flatter"
        ]
    )
    table = Table(("arm", "learning rate", "loss"), tuple(rows))
    title = "Loss against learning rate"
    return Panel("sweep", title, finding, figure, "loss", (), table, linked=False, wide=True)


def _add_arm(figure: go.Figure, name: str, values: list[tuple[float, float]], i: int) -> None:
    role, dash = run_style(i)
    rates = sorted({lr for lr, _ in values})
    groups = [[loss for at, loss in values if at == lr] for lr in rates]
    medians = [rounded(float(np.median(group))) for group in groups]
    spread = [rounded(max(group) - float(np.median(group))) for group in groups]
    below = [rounded(float(np.median(group)) - min(group)) for group in groups]
    bars = {"type": "data", "array": spread, "arrayminus": below, "thickness": 1.2, "width": 3}
    figure.add_trace(
        go.Scatter(
            x=rates,
            y=medians,
            name=safe(words.shorten(name, 48)),
            mode="lines+markers",
            error_y=bars if any(spread) or any(below) else None,
            line={"color": color(role), "width": 2, "dash": dash},
            marker={"color": color(role), "size": 8, "symbol": SYMBOLS[i % len(SYMBOLS)]},
            meta={"role": role, "dash": dash, "width": 2},
            yhoverformat=".4~g",
        )
    )
