"""Small static SVG curves: they show where scripts are blocked, and in the number cards."""

from collections.abc import Sequence

import numpy as np

from homotopy_cli.report.escaping import safe
from homotopy_cli.report.thin import thin
from homotopy_cli.report.words import number, shorten


def path(x: np.ndarray, y: np.ndarray, width: float, height: float, low: float, high: float) -> str:
    """SVG path data; non-finite values break the line."""
    span = (high - low) or 1.0
    left, right = float(x[0]), float(x[-1])
    across = (right - left) or 1.0
    parts, pen = [], False
    for xi, yi in zip(x, y, strict=True):
        if not np.isfinite(yi):
            pen = False
            continue
        px = (float(xi) - left) / across * width
        py = height - (float(yi) - low) / span * height
        parts.append(f"{'L' if pen else 'M'}{px:.1f} {py:.1f}")
        if not pen:
            parts.append("h.01")  # a lone point gets a dot from the round line cap
        pen = True
    return "".join(parts)


def _prepared(values: np.ndarray, log: bool, limit: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values, dtype=np.float64)
    if log:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.where(values > 0, np.log10(values), np.nan)
    rows = thin(values, limit=limit).rows
    return rows, values[rows]


def sparkline(values: np.ndarray, *, log: bool = False, width: int = 120, height: int = 28) -> str:
    """A word-sized curve, or nothing if there are fewer than two finite values."""
    rows, y = _prepared(values, log, 120)
    finite = y[np.isfinite(y)]
    if len(finite) < 2:
        return ""
    line = path(rows, y, width - 4, height - 4, float(finite.min()), float(finite.max()))
    return (
        f'<svg class="spark" viewBox="-2 -2 {width} {height}" preserveAspectRatio="none" '
        f'aria-hidden="true"><path d="{line}"/></svg>'
    )


def static_chart(
    x: np.ndarray,
    curves: Sequence[tuple[str, str, np.ndarray]],
    *,
    log: bool = False,
    width: int = 720,
    height: int = 200,
) -> str:
    """A static line chart with its two extremes written at the axis.

    Args:
        x: (n,) shared by all curves.
        curves: (name, colour role, values (n,)).
        log: Logarithmic vertical axis.
    """
    prepared = [(name, role, *_prepared(values, log, 400)) for name, role, values in curves]
    known = [y[np.isfinite(y)] for *_, y in prepared]
    known = [y for y in known if len(y)]
    if not known or len(x) < 2:
        return ""
    low, high = min(float(y.min()) for y in known), max(float(y.max()) for y in known)
    lines = "".join(
        f'<path style="stroke:var(--{role.replace("_", "-")})" '
        f'd="{path(np.asarray(x, dtype=np.float64)[rows], y, width, height, low, high)}">'
        f"<title>{safe(name)}</title></path>"
        for name, role, rows, y in prepared
        if np.isfinite(y).any()
    )
    back = (lambda v: 10**v) if log else (lambda v: v)
    left, right = number(float(x[0])), number(float(x[-1]))
    return (
        f'<svg class="static" viewBox="-4 -14 {width + 8} {height + 34}" aria-hidden="true">'
        f'<rect x="0" y="0" width="{width}" height="{height}"/>{lines}'
        f'<text x="0" y="-4">{number(back(high))}</text>'
        f'<text x="0" y="{height + 14}">{number(back(low))} · step {left}</text>'
        f'<text x="{width}" y="{height + 14}" text-anchor="end">{right}</text></svg>'
    )


def bar_list(rows: Sequence[tuple[str, float]], *, width: int = 720) -> str:
    """Named horizontal bars with their values, for the most curved layers."""
    if not rows:
        return ""
    top = max(abs(value) for _, value in rows) or 1.0
    label, step = 260, 22
    room = width - label - 90
    items = "".join(
        f'<text x="{label - 8}" y="{i * step + 14}" text-anchor="end">{safe(_short(name))}</text>'
        f'<path style="stroke:var(--blue);stroke-width:9" '
        f'd="M{label} {i * step + 10}h{abs(value) / top * room:.1f}"/>'
        f'<text x="{label + abs(value) / top * room + 8:.1f}" y="{i * step + 14}">'
        f"{number(value, 3)}</text>"
        for i, (name, value) in enumerate(rows)
    )
    return (
        f'<svg class="static" viewBox="0 0 {width} {step * len(rows) + 4}" aria-hidden="true">'
        f"{items}</svg>"
    )


def _short(name: str) -> str:
    return shorten(name, 40)
