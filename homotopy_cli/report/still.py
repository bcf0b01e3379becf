"""A figure as a small static SVG: what its panel shows where scripts are blocked.

Drawn from the figure's own traces, so that no line can be missing: lines with their dash, bands,
markers, bars, levels and marked steps. Colours are the page's variables and follow its theme.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import unescape

import numpy as np
import plotly.graph_objects as go

from homotopy_cli.report.escaping import safe
from homotopy_cli.report.theme import DASH_PATTERNS, PALETTE
from homotopy_cli.report.thin import thin
from homotopy_cli.report.words import number

POINTS = 300  # of a line: one for each two pixels of a phone
MARGIN = 34  # units of the drawing above and below the plot, for words
_ROLE_OF = {light: role for role, (light, _) in PALETTE.items()}


@dataclass(frozen=True)
class Scale:
    """An axis: data, log or not, to units of the drawing."""

    log: bool
    low: float  # log10 of the value on a log axis
    high: float
    start: float  # where `low` is drawn
    end: float

    def level(self, values: Sequence[float | None]) -> np.ndarray:
        """Values in the axis' own unit; NaN for what it cannot show."""
        found = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
        return np.log10(np.where(found > 0, found, np.nan)) if self.log else found

    def __call__(self, values: Sequence[float | None]) -> np.ndarray:
        share = (self.level(values) - self.low) / ((self.high - self.low) or 1.0)
        return self.start + np.clip(share, 0, 1) * (self.end - self.start)

    def said(self, *, high: bool = False) -> str:
        """The value at one end."""
        at = self.high if high else self.low
        return number(10**at if self.log else at)


def still(figure: go.Figure, *, wide: bool = True) -> str:
    """The SVG, or nothing if no trace is a line, a band, markers or bars with a finite value."""
    traces = [t for t in figure.data if isinstance(t, (go.Scatter, go.Bar)) and len(t.x or ())]
    width = 720 if wide else 480  # in a narrow panel words would shrink too much
    height = max(90, round(figure.layout.height / (1.5 if wide else 1.0)) - MARGIN)
    with np.errstate(all="ignore"):
        across = _scale(figure, "xaxis", [(t.x, t) for t in traces], (), 0, width)
        if across is None:
            return ""
        rows = _rows(figure, traces, height)
        if not rows:
            return ""
        parts = [_marked(figure, across, height)]
        parts += [_levels(figure, name, up, width) for name, up in rows.items()]
        for trace in traces:
            up = rows.get(_axis_of(trace))
            parts += [] if up is None else [_trace(trace, across, up)]
        words = _words(figure, across, rows, width, height)
    return (
        f'<svg class="static" viewBox="-4 -16 {width + 8} {height + MARGIN + 2}" '
        f'aria-hidden="true">{"".join(parts)}{words}</svg>'
    )


def _axis_of(trace: go.Scatter) -> str:
    return f"yaxis{(trace.yaxis or 'y')[1:]}"


def _rows(figure: go.Figure, traces: Sequence[go.Scatter], height: float) -> dict[str, Scale]:
    rows = {}
    for name in dict.fromkeys(_axis_of(trace) for trace in traces):
        bottom, top = figure.layout[name].domain or (0, 1)
        shown = [(t.y, t) for t in traces if _axis_of(t) == name]
        levels = [s.y0 for s in _lines(figure) if s.yref == name.replace("axis", "")]
        up = _scale(figure, name, shown, levels, height * (1 - bottom), height * (1 - top))
        if up is not None:
            rows[name] = up
    return rows


def _scale(
    figure: go.Figure, name: str, shown: list, levels: Sequence[float], start: float, end: float
) -> Scale | None:
    """The axis over its own range, or over all that is drawn on it; None if nothing is."""
    axis = figure.layout[name]
    unit = Scale(axis.type == "log", 0, 1, 0, 1)
    zero = [0.0] if any(isinstance(t, go.Bar) for _, t in shown) and name != "xaxis" else []
    ends = [unit.level(values) for values, _ in shown]
    found = np.concatenate([*ends, np.array(zero)])
    if not np.isfinite(found).any():
        return None
    found = np.concatenate([found[np.isfinite(found)], unit.level(levels)])
    low, high = axis.range or (float(np.nanmin(found)), float(np.nanmax(found)))
    return Scale(unit.log, low, high, start, end)


def _lines(figure: go.Figure) -> list:
    return [shape for shape in figure.layout.shapes if shape.type == "line"]


def _trace(trace: go.Scatter, across: Scale, up: Scale) -> str:
    x, y = across(trace.x), up(trace.y)
    meta = trace.meta if isinstance(trace.meta, dict) else {}
    line = getattr(trace, "line", None)
    color = (line and line.color) or trace.marker.color
    if isinstance(trace, go.Bar):
        base = np.broadcast_to(up([0.0]), y.shape)
        ends = zip(x, base, y, strict=True)
        bars = "".join(path(np.array([at, at]), np.array([b, t])) for at, b, t in ends)
        return _drawn(bars, color, 6)
    if meta.get("swatch") == "band":  # a ribbon: pieces with a gap after each
        return _drawn(path(x, y), color, 8, "stroke-linecap:butt")
    if trace.fill == "toself":  # up along the high edge, back along the low one
        half = len(x) // 2
        kept = np.concatenate([_kept(y[:half], 2), half + _kept(y[half:], 2)])
        fill = f"fill:{_variable(trace.fillcolor)};stroke:none"
        return f'<path style="{fill}" d="{path(x[kept], y[kept])}z"/>'
    if trace.mode == "markers":
        dots = "".join(path(x[i : i + 1], y[i : i + 1]) for i in range(len(x)))
        return _drawn(dots, color, 7)
    kept = _kept(y)
    dash = DASH_PATTERNS.get(str(line.dash), "")
    look = f"stroke-dasharray:{dash.replace(' ', ',')}" if dash else ""
    return _drawn(path(x[kept], y[kept]), color, line.width or 1.5, look)


def _kept(y: np.ndarray, share: int = 1) -> np.ndarray:
    return thin(y, limit=POINTS // share).rows


def _variable(color: str) -> str:
    role = _ROLE_OF.get(color)
    return f"var(--{role.replace('_', '-')})" if role else str(color)


def _drawn(data: str, color: str, width: float, more: str = "") -> str:
    if not data:
        return ""
    style = ";".join(part for part in (f"stroke:{_variable(color)}", more) if part)
    return f'<path style="{style}" stroke-width="{width:g}" d="{data}"/>'


def path(x: np.ndarray, y: np.ndarray) -> str:
    """SVG path data to a tenth of a unit, each step relative; non-finite values break the line."""
    parts: list[str] = []
    pen = None
    known = np.isfinite(x) & np.isfinite(y)
    for i in np.flatnonzero(known):
        at = (round(float(x[i]) * 10), round(float(y[i]) * 10))
        if pen is None or not known[i - 1]:
            parts.append(f"M{_tenths(at[0])} {_tenths(at[1])}h.01")  # a lone point gets a dot
        elif at != pen:
            down = _tenths(at[1] - pen[1])
            parts.append(f"l{_tenths(at[0] - pen[0])}{'' if down[0] == '-' else ' '}{down}")
        pen = at
    return "".join(parts)


def _tenths(n: int) -> str:
    whole, part = divmod(abs(n), 10)
    return f"{'-' if n < 0 else ''}{whole}{f'.{part}' if part else ''}"


def _levels(figure: go.Figure, name: str, up: Scale, width: int) -> str:
    """Horizontal lines and their words."""
    drawn = []
    for shape in _lines(figure):
        if shape.xref == "x domain" and shape.yref == name.replace("axis", ""):
            y = float(up([shape.y0])[0])
            if up.low <= up.level([shape.y0])[0] <= up.high:
                across = path(np.array([0.0, width]), np.array([y, y]))
                drawn.append(_drawn(across, shape.line.color, 1, "stroke-dasharray:5,3"))
    for note in figure.layout.annotations:
        here = note.xref == "x domain" and note.yref == name.replace("axis", "")
        if here and up.low <= note.y <= up.high:  # in the axis' own unit already
            y = float(up([10**note.y if up.log else note.y])[0])
            x, anchor = (width - 2, "end") if note.x == 1 else (2, "start")
            said = safe(note.text)
            drawn.append(f'<text x="{x}" y="{y - 3:.1f}" text-anchor="{anchor}">{said}</text>')
    return "".join(drawn)


def _marked(figure: go.Figure, across: Scale, height: int) -> str:
    """Vertical lines; those of marked steps with their names, none over another."""
    drawn, taken = [], []
    for shape in _lines(figure):
        if shape.xref != "x" or shape.yref not in ("paper", "y domain"):
            continue
        x = float(across([shape.x0])[0])
        color = shape.line.color
        upright = path(np.array([x, x]), np.array([0.0, height]))
        drawn.append(_drawn(upright, color, 1, "stroke-dasharray:1.5,3"))
        wide = 6.5 * len(unescape(shape.name or ""))
        left = x - wide - 3 if x + wide + 3 > across.end else x + 3
        if shape.name and all(left > end or left + wide < start for start, end in taken):
            taken.append((left, left + wide))
            said = safe(unescape(shape.name))
            style = f"fill:{_variable(color)}"
            drawn.append(f'<text x="{left:.1f}" y="11" style="{style}">{said}</text>')
    return "".join(drawn)


def _words(
    figure: go.Figure, across: Scale, rows: dict[str, Scale], width: int, height: int
) -> str:
    """Extremes of every axis; a row's label beside its own."""
    shown = {name: up for name, up in rows.items() if figure.layout[name].visible is not False}
    labels = {round(float(a.y), 9): a.text for a in figure.layout.annotations if a.yref == "paper"}
    texts = []
    for name, up in shown.items():
        top = (figure.layout[name].domain or (0, 1))[1]
        frame = f'<rect x="0" y="{up.end:.1f}" width="{width}" height="{up.start - up.end:.1f}"/>'
        said = up.said(high=True)
        if len(shown) > 1:
            said = f"{labels.get(round(float(top), 9), '')}: {up.said()} to {said}"
        texts.append(f'{frame}<text x="0" y="{up.end - 4:.1f}">{safe(said)}</text>')
    title = figure.layout.xaxis.title.text or ""
    low = f"{next(iter(shown.values())).said()} · " if len(shown) == 1 else ""
    foot = f"{low}{title} {across.said()}"
    return (
        "".join(texts) + f'<text x="0" y="{height + 14}">{safe(foot)}</text>'
        f'<text x="{width}" y="{height + 14}" text-anchor="end">{across.said(high=True)}</text>'
    )
