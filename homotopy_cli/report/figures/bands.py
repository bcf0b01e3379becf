"""Seeds as bands: the median of an arm's runs as a line, their spread as an area around it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from homotopy_cli.report import words
from homotopy_cli.report.arms import Arm
from homotopy_cli.report.escaping import safe
from homotopy_cli.report.figures.draw import add_level, add_line, log_axis
from homotopy_cli.report.figures.loss import smoothing_window
from homotopy_cli.report.panel import Panel, Table
from homotopy_cli.report.series import Curve, column, probed, rounded, trailing_mean, wants_log
from homotopy_cli.report.theme import base_figure, color, run_style
from homotopy_cli.report.thin import thin
from homotopy_cli.runlog.reader import RunLog

WHOLE_RANGE = 8  # runs up to which a band is smallest to largest; more: the middle half
POINTS = 700  # rows kept of each of a band's three lines


@dataclass(frozen=True)
class Band:
    """An arm's runs at common steps."""

    steps: np.ndarray  # i8 (k,)
    low: np.ndarray  # f8 (k,) no NaN
    middle: np.ndarray
    high: np.ndarray
    n: int  # runs that have the column
    fewer_from: int | None  # first step from which fewer than n runs go on


def band(runs: Sequence[RunLog], table: str, source: str, *, smooth: bool = False) -> Band | None:
    """Median and spread of one column over runs; None if no run has it.

    Step columns are compared step by step. Probes and evaluations of different runs fall on
    different steps: between two of a run's own measurements its line is interpolated.
    """
    series = [_series(run, table, source, smooth) for run in runs]
    known = [pair for pair in series if pair is not None]
    if not known:
        return None
    steps = np.unique(np.concatenate([s for s, _ in known]))
    values = np.stack([_on(steps, s, v, exact=table == "steps") for s, v in known])
    going = np.isfinite(values).sum(axis=0)
    kept = going > 0
    steps, values, going = steps[kept], values[:, kept], going[kept]
    if not len(steps):
        return None
    span = (0, 100) if len(known) <= WHOLE_RANGE else (25, 75)
    low, middle, high = np.nanpercentile(values, [span[0], 50, span[1]], axis=0)
    fewer = going < len(known)
    last = len(fewer) - 1 - int(np.argmax(~fewer[::-1])) if not fewer.all() else -1
    ends = int(steps[last + 1]) if last < len(fewer) - 1 else None
    return Band(steps, low, middle, high, len(known), ends)


def _series(
    run: RunLog, table: str, source: str, smooth: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    if table == "probes":
        return probed(run, source)
    values = column(getattr(run, table), source)
    if values is None:
        return None
    if smooth:
        values = trailing_mean(values, smoothing_window(len(values)))
    return (run.step if table == "steps" else run.eval_step), values


def _on(steps: np.ndarray, own: np.ndarray, values: np.ndarray, *, exact: bool) -> np.ndarray:
    finite = np.isfinite(values)
    found = np.full(len(steps), np.nan)
    if exact:
        found[np.searchsorted(steps, own[finite])] = values[finite]
        return found
    if finite.any():
        own, values = own[finite], values[finite]
        inside = (steps >= own[0]) & (steps <= own[-1])
        found[inside] = np.interp(steps[inside], own, values)
    return found


def bands_panel(
    logs: Sequence[RunLog],
    arms: Sequence[Arm],
    key: str,
    title: str,
    table: str,
    source: str,
    unit: str,
    smooth: bool,
    wide: bool,
    *,
    last_is_baseline: bool = False,
) -> Panel | None:
    """One column of every arm; None if no run has it."""
    found = [band([logs[i] for i in arm.runs], table, source, smooth=smooth) for arm in arms]
    known = [made for made in found if made is not None]
    if not known:
        return None
    figure = base_figure(height=320 if wide else 280)
    positive = wants_log(np.concatenate([made.middle for made in known]))
    if positive:
        log_axis(figure)
    notes: list[str] = []
    for i, (arm, made) in enumerate(zip(arms, found, strict=True)):
        if made is None:
            notes.append(f"{arm.name}: no column {source}")
            continue
        role, dash = run_style(i, baseline=last_is_baseline and i == len(arms) - 1)
        notes += _add(figure, arm, made, role, dash, positive)
    if source == "edge_ratio":
        add_level(figure, 1.0, label="edge of stability", role="red")
    notes.append(_what_a_band_is([made.n for made in known]))
    if table == "probes":
        notes.append("between a run's probes its line is interpolated")
    return Panel(
        key,
        title,
        _finding(arms, found) + _ends_early(logs, known),
        figure,
        unit,
        tuple(notes),
        _table(arms, found),
        wide=wide,
        log_switch=True,
    )


def _what_a_band_is(counts: Sequence[int]) -> str:
    if max(counts) > WHOLE_RANGE:
        return (
            f"line: median of the seeds; band: middle half (beyond {WHOLE_RANGE} seeds), else all"
        )
    return "line: median of the seeds; band: smallest to largest"


def _add(
    figure: go.Figure, arm: Arm, made: Band, role: str, dash: str, positive: bool
) -> list[str]:
    notes = []
    low, middle, high = made.low, made.middle, made.high
    steps = made.steps
    if positive and (unseen := low <= 0).any():
        notes.append(f"{arm.name}: {words.plural(int(unseen.sum()), 'step')} ≤ 0 not drawn")
        low, middle, high, steps = (part[~unseen] for part in (low, middle, high, steps))
    rows = [thin(part, limit=POINTS).rows for part in (low, middle, high)]
    kept = np.unique(np.concatenate(rows)) if len(steps) else np.empty(0, int)
    if len(kept) < len(steps):
        n = f"{words.count(len(kept))} of {words.count(len(steps))} points"
        notes.append(f"{arm.name}: {n}, min–max per bin")
    label = f"{arm.name} · {words.plural(made.n, 'seed')}"
    name = safe(words.shorten(label, 48))
    x = [int(step) for step in steps[kept]]
    line = Curve(x, [rounded(float(v)) for v in middle[kept]], len(steps))
    if made.n > 1:
        edge = [rounded(float(v)) for v in high[kept]]
        back = [rounded(float(v)) for v in low[kept][::-1]]
        figure.add_trace(
            go.Scatter(
                x=x + x[::-1],
                y=edge + back,
                name=name,
                mode="lines",
                line={"width": 0, "color": color(role)},
                fill="toself",
                fillcolor=color(f"{role}_band"),
                hoverinfo="skip",
                meta={"role": role, "dash": dash, "width": 2, "label": label},
            )
        )
    ends = {"customdata": _spread(low[kept], high[kept])} if made.n > 1 else {}
    hover = "%{y:.4~g} (%{customdata})" if made.n > 1 else "%{y:.4~g}"
    add_line(
        figure, line, name=name, label=label, role=role, dash=dash, hovertemplate=hover, **ends
    )
    if made.fewer_from is not None:
        notes.append(
            f"{arm.name}: fewer than {made.n} runs from step {words.count(made.fewer_from)} on"
        )
    return notes


def _spread(low: np.ndarray, high: np.ndarray) -> list[str]:
    return [
        f"{words.number(float(a))} to {words.number(float(b))}"
        for a, b in zip(low, high, strict=True)
    ]


def _finding(arms: Sequence[Arm], found: Sequence[Band | None]) -> str:
    ends = [
        (float(made.middle[-1]), arm.name)
        for arm, made in zip(arms, found, strict=True)
        if made is not None
    ]
    low, high = min(ends), max(ends)
    if len(ends) == 1 or low[0] == high[0]:
        return f"The median ends at {words.number(low[0])}."
    return (
        f"The medians end between {words.number(low[0])} ({low[1]}) and "
        f"{words.number(high[0])} ({high[1]})."
    )


def _ends_early(logs: Sequence[RunLog], known: Sequence[Band]) -> str:
    """A sentence if the column stops well before the runs do, as probes on a small budget may."""
    last = max(int(made.steps[-1]) for made in known)
    end = max((int(log.step[-1]) for log in logs if len(log.step)), default=last)
    if last >= 0.75 * end:
        return ""
    return f" The last value is at step {words.count(last)} of {words.count(end + 1)}."


def _table(arms: Sequence[Arm], found: Sequence[Band | None]) -> Table:
    rows = []
    for arm, made in zip(arms, found, strict=True):
        if made is None:
            continue
        ends = [float(part[-1]) for part in (made.middle, made.low, made.high)]
        first = float(made.middle[0])
        cells = (first, *ends, float(made.low.min()), float(made.high.max()))
        rows.append((arm.name, words.count(made.n), *(words.number(v) for v in cells)))
    head = ("arm", "seeds", "median at first", "at last", "band from", "to", "smallest", "largest")
    return Table(head, tuple(rows), "of the band drawn: its first and last step, and its extremes")
