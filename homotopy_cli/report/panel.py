"""What a figure brings to the page: itself, a sentence, notes and its data as a table."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from homotopy_cli.report import words


@dataclass(frozen=True)
class Table:
    """Cells are text; the page escapes them. Columns in `numeric` are set right-aligned."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    text_columns: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Panel:
    """One panel of the page.

    `figure` is None when nothing was measured; `empty` then says which columns are missing and
    how to get them. The page leaves such a panel out, unless it is `news`: then it is one line.
    `extra` is handed to the page's script: slider frames, a heat map's rows.
    """

    key: str  # id in the page: fixed, lower case
    title: str
    finding: str
    figure: go.Figure | None = None
    unit: str = ""
    notes: tuple[str, ...] = ()
    table: Table | None = None
    empty: str = ""
    news: bool = False  # that there is no figure is worth a line: a value failed, or is expected
    linked: bool = True  # the x axis is the optimizer step, shared by all such panels
    wide: bool = False
    log_switch: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


def worth_showing(panels: Sequence[Panel]) -> tuple[Panel, ...]:
    """Without those that have no figure and whose emptiness tells nothing about the run."""
    return tuple(panel for panel in panels if panel.figure is not None or panel.news)


def balanced(panels: Sequence[Panel]) -> tuple[Panel, ...]:
    """Drawn panels first, empty ones last; a narrow one alone in its row of two becomes wide."""
    panels = sorted(panels, key=lambda panel: panel.figure is None)
    done: list[Panel] = []
    narrow = 0
    for i, panel in enumerate(panels):
        narrow = 0 if panel.wide else narrow + 1
        after = panels[i + 1] if i + 1 < len(panels) else None
        last = after is None or after.wide or (after.figure is None and panel.figure is not None)
        alone = last and narrow % 2 == 1
        done.append(replace(panel, wide=True) if alone else panel)
        narrow = 0 if alone else narrow
    return tuple(done)


TABLE_ROWS = 40  # rows of a figure's data table; the log has them all


def sample_rows(n: int, important: Sequence[int] = (), *, limit: int = TABLE_ROWS) -> np.ndarray:
    """At most `limit` rows of n: first, last, the important ones, the rest evenly spaced."""
    if n <= limit:
        return np.arange(n)
    fixed = [i for i in dict.fromkeys(important) if 0 <= i < n][: limit - 2]
    spaced = np.linspace(0, n - 1, max(2, limit - len(fixed))).round().astype(int)
    return np.unique(np.concatenate([spaced, np.array(fixed, dtype=int)]))


def data_table(
    axis: str, steps: np.ndarray, columns: dict[str, np.ndarray], *, limit: int = TABLE_ROWS
) -> Table:
    """Columns over steps as text, with every column's extremes among the rows."""
    important: list[int] = []
    for values in columns.values():
        if np.isfinite(values).any():
            finite = np.where(np.isfinite(values), values, np.nan)
            important += [int(np.nanargmin(finite)), int(np.nanargmax(finite))]
    rows = sample_rows(len(steps), important, limit=limit)
    body = tuple(
        (words.count(steps[i]), *(cell(values[i]) for values in columns.values())) for i in rows
    )
    left_out = len(steps) - len(rows)
    caption = (
        f"{words.count(len(rows))} of {words.count(len(steps))} rows: first, last, extremes, "
        "the rest evenly spaced"
        if left_out
        else words.plural(len(rows), "row")
    )
    return Table((axis, *columns), body, caption, ())


def cell(value: float) -> str:
    """One value of a column: NaN in a log means not measured, or not finite."""
    return words.NONE if np.isnan(value) else words.number(float(value))
