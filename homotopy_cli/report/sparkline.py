"""Word-sized curves of the number cards, and bars of layers where scripts are blocked."""

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
