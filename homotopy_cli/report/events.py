"""The events of a log as a table: what repeats is one row, so that what is rare is seen."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from homotopy_cli.records import EventRecord
from homotopy_cli.report import words
from homotopy_cli.report.escaping import safe

MAX_EVENTS = 200  # rows of the table; the log has them all
CLOSE = 32  # steps between two of a kind that are one row at least; our choice
SHARE = 0.05  # of the run's steps, in long runs
_RANGE = " out of range"
_OVER = re.compile(r"over: it was seen (\d+) times in a row")
_LOUD = ("SPIKE",)  # told by the run as info, and what a reader looks for


@dataclass
class Row:
    """Events of one kind that came close after one another."""

    level: str
    code: str
    first: int
    last: int
    times: int
    message: str


def merged(events: Sequence[EventRecord], *, close: int | None = None) -> list[Row]:
    """One row per run of events of equal level, code and text, in the order of their first.

    What is out of range may change within a row: its text then names all of it. Other events may
    lie between.

    Args:
        events: In the order of the log.
        close: Steps between two of one row at most; default: 5 % of the run, at least 32.
    """
    if close is None:
        close = max(CLOSE, int(SHARE * max((event.step for event in events), default=0)))
    rows: list[Row] = []
    latest: dict[tuple[str, str, str], Row] = {}
    for event in events:
        ranged = event.message.endswith(_RANGE)
        over = _OVER.fullmatch(event.message)
        kind = _RANGE if ranged or over else event.message
        key = (event.level, event.code, kind)
        row = latest.get(key)
        if row is None or not 0 <= event.step - row.last <= close:
            row = Row(event.level, event.code, event.step, event.step, 0, event.message)
            latest[key] = row
            rows.append(row)
            row.times = int(over[1]) if over else 1
            continue
        row.last = event.step
        row.times += int(over[1]) - 1 if over else 1  # the first of them had its own event
        if ranged:
            row.message = _names(row.message, event.message)
    return rows


def _names(told: str, new: str) -> str:
    """`loss out of range` and `grad_norm out of range` as one text."""
    names = re.split(r", | and ", told.removesuffix(_RANGE))
    names += [n for n in re.split(r", | and ", new.removesuffix(_RANGE)) if n not in names]
    return words.join(names) + _RANGE if told.endswith(_RANGE) else new


def alarms_before(events: Sequence[EventRecord], step: int) -> tuple[int, int] | None:
    """(Step of the first, how many) of the run's own alarms that led up to a step.

    None for fewer than two, or where the last of them came more than CLOSE steps earlier.
    """
    steps = [e.step for e in events if e.code == "ALARM" and e.message.endswith(_RANGE)]
    found: list[int] = []
    for at in sorted((at for at in steps if at < step), reverse=True):
        if (found[-1] if found else step) - at > CLOSE:
            break
        found.append(at)
    return (found[-1], len(found)) if len(found) > 1 else None


def events_html(events: Sequence[EventRecord]) -> str:
    """What the run said while it ran; errors, warnings and spikes are marked, and never cut off."""
    if not events:
        return '<p class="empty">No events were recorded.</p>'
    rows = merged(events)
    order = {"error": 0, "warning": 1}
    rank = [2 if row.code in _LOUD else order.get(row.level, 3) for row in rows]
    ranked = sorted(range(len(rows)), key=lambda i: (rank[i], i))
    shown = sorted(ranked[:MAX_EVENTS])
    body = "".join(_row(rows[i], loud=rank[i] < 3) for i in shown)
    rest = sum(rows[i].times for i in ranked[MAX_EVENTS:])
    left = f"<p class=note>{words.plural(rest, 'further event')} in the log.</p>" if rest else ""
    return (
        "<div class='scroll tall events' tabindex=0><table><thead><tr>"
        "<th scope=col class=n>step</th>"
        "<th scope=col>level</th><th scope=col>code</th><th scope=col>message</th></tr></thead>"
        f"<tbody>{body}</tbody></table></div>{left}"
    )


def _row(row: Row, *, loud: bool) -> str:
    when = words.count(row.first)
    if row.last > row.first:
        when += f"{words.DASH}{words.count(row.last)}"
    said = safe(row.message)
    if row.times > 1:
        said += f" <b>{words.count(row.times)} times</b>"
    code = f"<code>{safe(row.code)}</code>"
    return (
        f'<tr class="{safe(row.level)}"><td class=n>{when}</td>'
        f'<td><span class="tag">{safe(row.level)}</span></td>'
        f"<td>{f'<strong>{code}</strong>' if loud else code}</td><td>{said}</td></tr>"
    )
