"""Columns of a log -> lists that a figure can draw, with what must be said about them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from homotopy_cli.report import words
from homotopy_cli.report.thin import LIMIT, thin
from homotopy_cli.runlog.reader import RunLog


@dataclass(frozen=True)
class Curve:
    """What is drawn of one column. A gap in the line is None."""

    x: list[int]
    y: list[float | None]
    total: int  # rows of the column
    notes: tuple[str, ...] = ()  # thinning, gaps, values a log axis cannot show

    @property
    def isolated(self) -> list[int]:
        """Positions of points between two gaps: a line alone would not show them."""
        known = [value is not None for value in self.y]
        last = len(known) - 1
        return [
            i
            for i, here in enumerate(known)
            if here and not (i > 0 and known[i - 1]) and not (i < last and known[i + 1])
        ]


def column(table: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    """A measured column as f8 (n,), or None if it is absent or holds no finite value.

    A column with one value per component (n, k) is reduced to its worst component.
    """
    values = table.get(name)
    if values is None or not np.size(values):
        return None
    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 2:
        with_values = ~np.isnan(values).all(axis=1)
        worst = np.fmin if ("min" in name or "entropy" in name) else np.fmax
        reduced = worst.reduce(values, axis=1)
        values = np.where(with_values, reduced, np.nan)
    return values if np.isfinite(values).any() else None


def probed(log: RunLog, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps and values of a probe column, without the probes that did not measure it.

    A probe measures what it was asked for: NaN beside other finite values means "not
    measured" and is left out; in a row with nothing finite it is a value that failed, a gap.
    """
    values = column(log.probes, name)
    if values is None:
        return None
    others = [v for k in log.probes if k != name and (v := column(log.probes, k)) is not None]
    elsewhere = np.isfinite(others).any(axis=0) if others else np.zeros(len(values), bool)
    kept = ~(np.isnan(values) & elsewhere)
    return np.asarray(log.probe_step)[kept], values[kept]


def unconverged(log: RunLog, rows: np.ndarray) -> str:
    """How many of the probes among `rows` stopped short of their tolerance; "" if none did."""
    met = column(log.probes, "converged")
    short = 0 if met is None else int((met[rows] == 0).sum())
    if not short:
        return ""
    n = int(rows.sum())
    if n == 1:
        return "its probe had not converged"
    if short == n:
        return f"none of its {words.count(n)} probes had converged"
    return f"{words.count(short)} of its {words.count(n)} probes had not converged"


def rounded(x: float, digits: int = 6) -> float:
    """`x` to 6 significant digits: short JSON, finer than a pixel."""
    short = float(f"{x:.{digits}g}")
    return short if np.isfinite(short) else float(x)  # the largest floats round up to infinity


def absence(table: Mapping[str, np.ndarray], steps: np.ndarray, *names: str) -> str:
    """Why nothing can be drawn of these columns, in words."""
    for name in names:
        values = table.get(name)
        if values is not None and np.size(values) and np.isinf(values).any():
            return f"No finite value: {words.gaps(name, steps, np.asarray(values))}."
    if not len(steps):
        return "No rows."
    listed = words.join(names)
    return f"This log has no column{'s' if len(names) > 1 else ''} {listed}."


def failed(table: Mapping[str, np.ndarray], *names: str) -> bool:
    """Whether one of these columns was measured and came out infinite: no mere absence."""
    return any(np.size(table[n]) and bool(np.isinf(table[n]).any()) for n in names if n in table)


def curve(
    steps: np.ndarray,
    values: np.ndarray,
    name: str,
    *,
    positive: bool = False,
    gaps: bool = True,
    limit: int = LIMIT,
) -> Curve:
    """Thin one column and say what was done.

    Args:
        steps: (n,) increasing.
        values: (n,).
        name: For the notes.
        positive: For a logarithmic axis: zero and negative values become gaps, counted.
        gaps: NaN breaks the line. False for columns measured only now and then: NaN rows are
            then left out; infinite ones still break the line.
        limit: Points to aim at.
    """
    values = np.asarray(values, dtype=np.float64)
    steps = np.asarray(steps)
    if not gaps:
        measured = ~np.isnan(values)
        steps, values = steps[measured], values[measured]
    notes = []
    said = words.gaps(name, steps, values)
    if said:
        notes.append(said)
    if positive:
        unseen = np.isfinite(values) & (values <= 0)
        if unseen.any():
            n = words.plural(int(unseen.sum()), "value")
            notes.append(f"{n} of {name} ≤ 0 not drawn on the log axis")
            values = np.where(unseen, np.nan, values)
    chosen = thin(values, limit=limit)
    if chosen.sentence:
        notes.append(f"{name}: {chosen.sentence}")
    x = [int(step) for step in steps[chosen.rows]]
    y = [rounded(v) if np.isfinite(v) else None for v in values[chosen.rows]]
    return Curve(x, y, chosen.total, tuple(notes))


def trailing_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` rows, over the finite ones among them; NaN where x is not finite.

    It looks back only: a centred mean would show a spike rising before it happens. Near the
    start it looks back at most an eighth of the rows so far, so that it follows a steep fall.
    """
    values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values)
    centre = values[finite].mean() if finite.any() else 0.0  # keeps the cumulative sums small
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values - centre, 0.0))])
    number = np.concatenate([[0], np.cumsum(finite)])
    high = np.arange(1, len(values) + 1)
    low = high - np.minimum(window, 1 + high // 8)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (total[high] - total[low]) / (number[high] - number[low]) + centre
    return np.where(finite, mean, np.nan)


def first_finite(values: np.ndarray) -> float | None:
    """The first finite value, or None."""
    finite = values[np.isfinite(values)]
    return float(finite[0]) if len(finite) else None


def last_finite(values: np.ndarray) -> float | None:
    """The last finite value, or None."""
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if len(finite) else None


def wants_log(values: np.ndarray, *, decades: float = 1.3) -> bool:
    """Whether the positive values span so many decades that a linear axis would hide most."""
    seen = values[np.isfinite(values) & (values > 0)]
    finite = values[np.isfinite(values)]
    if len(seen) < 2 or len(seen) < 0.9 * len(finite):
        return False
    return bool(np.log10(seen.max()) - np.log10(seen.min()) > decades)
