"""What a figure brings to the page: itself, a sentence, notes and its data as a table."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from homotopy_cli.report import words

_NUMBER = re.compile(f"\\d[\\d{words.THIN_SPACE}]*")


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


def shared_notes(notes: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Notes on several runs, with what is said of each of them said once.

    `a: 40 of 90 points` and `b: 44 of 90 points` become `each: 40 to 44 of 90 points`, in the
    place of the first; what is not said of all runs stays as it is.
    """
    groups: dict[str, list[tuple[int, str]]] = {}
    for i, note in enumerate(notes):
        for name in names:
            if note.startswith(f"{name}: "):
                said = note.removeprefix(f"{name}: ")
                number = _NUMBER.search(said)
                template = _NUMBER.sub("{}", said, count=1)
                groups.setdefault(template, []).append((i, number[0] if number else ""))
                break
    made: dict[int, str | None] = {}
    for template, seen in groups.items():
        if len(seen) != len(names) or len(names) < 2:
            continue
        numbers = sorted((n for _, n in seen), key=lambda n: (len(n), n))
        ends = dict.fromkeys((numbers[0], numbers[-1]))
        made |= {i: None for i, _ in seen}
        made[seen[0][0]] = f"each: {template.replace('{}', ' to '.join(ends), 1)}"
    kept = [made.get(i, note) for i, note in enumerate(notes)]
    return tuple(note for note in kept if note is not None)


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
