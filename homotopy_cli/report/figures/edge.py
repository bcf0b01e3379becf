"""How near training came to the edge of stability: lr × sharpness over the optimizer's threshold.

Above 1 gradient descent on the local quadratic diverges; sustained values above about 0.7 are
where runs take damage, below 0.25 there is room (Cohen et al. 2021, 2022; Bai et al. 2025).
"""

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from homotopy_cli.report import words
from homotopy_cli.report.facts import adam_beta1, target
from homotopy_cli.report.figures.draw import add_band, add_level, add_line, log_axis
from homotopy_cli.report.panel import Panel, data_table
from homotopy_cli.report.series import absence, column, curve, probed, unconverged, wants_log
from homotopy_cli.report.theme import base_figure
from homotopy_cli.runlog.reader import RunLog

RED = 1.0
NEAR = 0.7  # above which runs take damage: see the module's docstring
SAME = 0.1  # |Δlog| within which two products are one: a rate may move after its probe
DOMINANT = 2.0  # |λ_min| over |λ_max| from which the ratio, made of λ_max, misleads: our choice
RESIDUALS = {
    "preconditioned_sharpness": "preconditioned_residual",
    "lambda_max": "residual",
}
SIGNALS = {
    "preconditioned_sharpness": "λ_max(P⁻¹H)",
    "lambda_max": "λ_max(H)",
    "directional_sharpness": "directional u'Hu / u'Pu",
    "hessian_norm": "‖H‖₂",
}


@dataclass(frozen=True)
class Edge:
    """Where the edge lies for the signal that the log's edge ratio was made from."""

    signal: str  # the probe column the ratio was made from
    sharpness: np.ndarray  # (m,) the edge in the signal's unit: c / lr, or c / (lr × clip_coef)
    constant: float  # c, of the last probe: Adam's grows over the first steps
    clipped: bool = False  # the clipping coefficient counts

    @property
    def name(self) -> str:
        """In a legend."""
        rate = "(lr × clipping)" if self.clipped else "lr"
        return f"edge {words.number(self.constant, 3)} / {rate}"


def lr_at_probes(log: RunLog) -> np.ndarray | None:
    """The learning rate used at each probe's step, NaN where that step is not in the log."""
    return _at_probes(log, "lr")


def _at_probes(log: RunLog, name: str) -> np.ndarray | None:
    values = column(log.steps, name)
    if values is None or not len(log.probe_step):
        return None
    at = np.searchsorted(log.step, log.probe_step)
    inside = at < len(log.step)
    at = np.minimum(at, len(log.step) - 1)
    inside &= log.step[at] == log.probe_step
    return np.where(inside, values[at], np.nan)


def edge_of(log: RunLog) -> Edge | None:
    """Which signal the edge ratio was made from, and the edge in its unit."""
    return told_edge(log) or implied_edge(log)


def told_edge(log: RunLog) -> Edge | None:
    """The edge of a log that holds c: ratio × c is lr × signal, or with the clipping in it.

    The signal is the one for which that is so; None if it is so for none.
    """
    ratio, c = column(log.probes, "edge_ratio"), column(log.probes, "edge_threshold")
    lr, clip = lr_at_probes(log), _at_probes(log, "clip_coef")
    if ratio is None or c is None or lr is None:
        return None
    scales = {False: 1.0} if clip is None else {False: 1.0, True: clip}
    best: tuple[float, Edge] | None = None
    for name in SIGNALS:
        signal = column(log.probes, name)
        if signal is None:
            continue
        for clipped, scale in scales.items():
            with np.errstate(all="ignore"):
                gap = np.abs(np.log(ratio * c / (lr * scale * signal)))
                edge = c / (lr * scale)
            if not (usable := np.isfinite(gap)).any():
                continue
            off = float(np.median(gap[usable]))
            if off < SAME and (best is None or off < best[0] - 1e-9):
                constant = float(c[np.isfinite(c)][-1])
                sharpness = np.where(np.isfinite(edge), edge, np.nan)
                best = (off, Edge(name, sharpness, constant, clipped))
    return best[1] if best else None


def implied_edge(log: RunLog) -> Edge | None:
    """The same of an older log, without c.

    The ratio is lr·λ/c with a c that hardly moves, but for Adam's bias correction 1 − β₁ᵗ, so
    the signal whose implied c varies least is the one; none if every one varies too much.
    """
    ratio, lr = column(log.probes, "edge_ratio"), lr_at_probes(log)
    if ratio is None:
        return None
    best: tuple[float, Edge] | None = None
    corrections = [np.ones(len(log.probe_step))]
    beta1 = adam_beta1(log)
    if beta1 is not None:
        corrections.append(1 - beta1 ** (log.probe_step + 1.0))
    for name in SIGNALS:
        signal = column(log.probes, name)
        if signal is None:
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            edge = signal / ratio
            c = edge * lr if lr is not None else edge
        for correction in corrections:
            usable = np.isfinite(c) & (c > 0) & (correction > 0)
            if usable.sum() < 2:
                continue
            logs = np.log(c[usable] / correction[usable])
            spread = float(np.median(np.abs(logs - np.median(logs))))
            if spread < 0.4 and (best is None or spread < best[0] - 1e-9):
                constant = float(np.exp(np.median(logs)))
                best = (spread, Edge(name, np.where(np.isfinite(edge), edge, np.nan), constant))
    return best[1] if best else None


def upper_ratio(log: RunLog, ratio: np.ndarray) -> np.ndarray | None:
    """The edge ratio with the residual of its eigenvalue added, (m,); None where none is known.

    Few steps err low: the eigenvalue lies between the two as a rule. Older logs have one column
    for both residuals, which is that of λ_max(P⁻¹H) where λ_max(H) was not measured.
    """
    edge = edge_of(log)
    signal = None if edge is None else column(log.probes, edge.signal)
    if edge is None or signal is None or edge.signal not in RESIDUALS:
        return None
    residual = column(log.probes, RESIDUALS[edge.signal])
    if residual is None and edge.signal == "preconditioned_sharpness":
        residual, plain = column(log.probes, "residual"), column(log.probes, "lambda_max")
        if residual is not None and plain is not None:
            residual = np.where(np.isfinite(plain), np.nan, residual)
    if residual is None:
        return None
    with np.errstate(all="ignore"):
        found = ratio * (1.0 + residual / np.abs(signal))
    return found if np.isfinite(found).any() else None


def _build(
    log: RunLog, ratio: np.ndarray, baseline: RunLog | None
) -> tuple[go.Figure, tuple[str, ...]]:
    figure = base_figure(height=300)
    if baseline is not None and (other := column(baseline.probes, "edge_ratio")) is not None:
        drawn = curve(baseline.probe_step, other, "baseline", gaps=False)
        add_line(figure, drawn, name="baseline", role="grey", dash="dot", width=1.6)
    log_scale = wants_log(ratio, decades=1.5)
    if log_scale:
        log_axis(figure)
    directional = _directional_ratio(log)
    if directional is not None:
        drawn = curve(log.probe_step, directional, "directional", positive=log_scale, gaps=False)
        name = "along the update direction"
        add_line(figure, drawn, name=name, role="teal", dash="dash", width=1.4)
    upper = upper_ratio(log, ratio)
    if upper is not None:
        line = curve(log.probe_step, upper, "upper", positive=log_scale, gaps=False)
        add_line(figure, line, name="with its error", role="blue", dash="dot", width=1.0)
    drawn = curve(*probed(log, "edge_ratio"), "edge_ratio", positive=log_scale)
    add_line(figure, drawn, name="edge ratio", role="blue", width=2.2)
    shown = ratio if upper is None else np.fmax(ratio, upper)
    top = float(np.nanmax(np.where(np.isfinite(shown), shown, np.nan)))
    side = _free_side(ratio[np.isfinite(ratio)])
    add_level(figure, RED, label="edge of stability", role="red", side=side)
    if top > RED:
        add_band(figure, RED, top * (2 if log_scale else 1.2), role="danger_band")
    goal = target(log)
    if goal is not None and goal != RED:
        add_level(figure, goal, label=f"target {words.number(goal)}", role="teal", dash="dot")
    _fit_range(figure, shown, log_scale)
    return figure, drawn.notes


def _free_side(known: np.ndarray) -> str:
    """The end of the plot at which the curve is further from the edge: there is room for words."""
    some = max(1, len(known) // 8)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.abs(np.log(np.maximum(known, 1e-9)))
    return "left" if gap[:some].min() > 2 * gap[-some:].min() else "right"


def _fit_range(figure: go.Figure, ratio: np.ndarray, log_scale: bool) -> None:
    finite = ratio[np.isfinite(ratio)]
    top = max(float(finite.max()), RED)
    if log_scale:
        low = max(float(finite[finite > 0].min()), 1e-4)
        figure.update_yaxes(range=[np.log10(low) - 0.1, np.log10(top) + 0.15])
    else:
        low = min(0.0, float(finite.min()))
        figure.update_yaxes(range=[low * 1.1, top * 1.12])


def _directional_ratio(log: RunLog) -> np.ndarray | None:
    edge, directional = edge_of(log), column(log.probes, "directional_sharpness")
    if edge is None or directional is None or edge.signal != "preconditioned_sharpness":
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        return directional / edge.sharpness


def edge_panel(log: RunLog, baseline: RunLog | None = None) -> Panel:
    """The panel: how near, when, for how long."""
    key, title = "edge", "Edge of stability"
    ratio = column(log.probes, "edge_ratio")
    if ratio is None:
        return Panel(
            key,
            title,
            "How near training came to the edge was not recorded.",
            empty=absence(log.probes, log.probe_step, "edge_ratio")
            + " Training records it when it measures curvature: lr × sharpness over the "
            "optimizer's stability threshold.",
            news=True,
        )
    figure, notes = _build(log, ratio, baseline)
    columns = {"edge_ratio": ratio}
    lr = lr_at_probes(log)
    if lr is not None:
        columns["lr"] = lr
    threshold = column(log.probes, "edge_threshold")
    if threshold is not None:
        columns["edge_threshold"] = threshold
    if (upper := upper_ratio(log, ratio)) is not None:
        columns["with its error"] = upper
    return Panel(
        key,
        title,
        edge_finding(log),
        figure,
        "lr × sharpness ÷ threshold",
        notes,
        data_table("step", log.probe_step, columns),
        wide=True,
        log_switch=True,
    )


def edge_finding(log: RunLog) -> str:
    """Peak, typical value, and time beyond the edge."""
    ratio = column(log.probes, "edge_ratio")
    if ratio is None:
        return ""
    finite = np.isfinite(ratio)
    steps, known = log.probe_step[finite], ratio[finite]
    peak = int(np.argmax(known >= known.max() - 5e-3 * abs(known.max())))
    where, size = words.count(steps[peak]), words.number(known[peak], 3)
    parts = [
        f"furthest beyond at step {where}, at {size} times the stability limit"
        if known[peak] > RED
        else f"closest at step {where}, with {size} of the stability limit"
    ]
    if len(known) >= 4:
        half = known[len(known) // 2 :]
        parts.append(
            f"median {words.number(float(np.median(half)), 2)} over the second half of the probes"
        )
    if len(log.step) and steps[-1] < log.step[0] + 0.75 * (log.step[-1] - log.step[0]):
        last = f"the last probe was at step {words.count(steps[-1])}"
        parts.append(f"{last} of {words.count(len(log.step))}")
    beyond = int((known > RED).sum())
    if beyond:
        parts.append(
            f"{words.plural(beyond, 'probe')} of {words.count(len(known))} beyond the edge "
            f"({words.at_steps(steps, known > RED)})"
        )
    parts += _doubts(log, ratio, beyond)
    parts.append(unconverged(log, finite))
    return words.sentences(parts)


def _doubts(log: RunLog, ratio: np.ndarray, beyond: int) -> list[str]:
    """What the ratio leaves out: the error of its eigenvalue, and the other end of the spectrum."""
    parts = []
    upper = upper_ratio(log, ratio)
    if upper is not None:
        with np.errstate(all="ignore"):
            share = upper / ratio - 1.0
        known = np.isfinite(share) & (ratio > 0)
        if known.any() and (typical := float(np.median(share[known]))) >= 0.05:
            further = int((np.fmax(ratio, upper) > RED).sum())
            more = f", with which {words.count(further)} lie beyond" if further > beyond else ""
            parts.append(f"known to +{words.percent(typical)} in the median{more}")
    high, low = column(log.probes, "lambda_max"), column(log.probes, "lambda_min")
    if high is not None and low is not None:
        with np.errstate(invalid="ignore"):
            falls = (-low > DOMINANT * np.abs(high)) & (low < 0) & np.isfinite(ratio)
        if falls.any():
            parts.append(
                "where negative curvature is far the larger "
                f"({words.at_steps(log.probe_step, falls)}) a low ratio is no sign of safety"
            )
    return parts
