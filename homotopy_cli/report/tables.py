"""Static HTML: tables, number cards, gates. Everything that comes from a log is escaped here."""

from collections.abc import Sequence

import numpy as np

from homotopy_cli.report import words
from homotopy_cli.report.escaping import safe
from homotopy_cli.report.gates import GateResult
from homotopy_cli.report.judging import tally
from homotopy_cli.report.labels import LABELS, NO_CARD, change_text, metric_text, shares
from homotopy_cli.report.metrics import METRICS, metric_name
from homotopy_cli.report.panel import Table
from homotopy_cli.report.series import column, probed
from homotopy_cli.report.sparkline import sparkline
from homotopy_cli.runlog.reader import RunLog

LONG_FACT = 48  # characters; a longer fact gets a row of its own
MAX_CARDS = 7  # number cards in a row of a wide page
MID_CARDS = 5  # in a row of a narrower one


def table_html(table: Table) -> str:
    """A table; numeric cells are right-aligned, the first of a row is its heading."""
    text = set(table.text_columns)
    side = ["" if i in text else " class=n" for i in range(len(table.head))]
    head = "".join(
        f'<th scope="col"{side[i]}>{safe(name)}</th>' for i, name in enumerate(table.head)
    )
    body = "".join(
        f'<tr><th scope="row"{side[0]}>{safe(row[0])}</th>'
        + "".join(f"<td{side[i]}>{safe(value)}</td>" for i, value in enumerate(row) if i)
        + "</tr>"
        for row in table.rows
    )
    caption = f"<caption><span>{safe(table.caption)}</span></caption>" if table.caption else ""
    label = safe("table of " + ", ".join(table.head[:4]))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>{caption}'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


_SPARKS = {
    "final_loss": ("steps", "loss"),
    "val_loss": ("evals", "eval_loss"),
    "max_edge_ratio": ("probes", "edge_ratio"),
    "max_lambda_max": ("probes", "lambda_max"),
    "max_kappa": ("probes", "kappa"),
    "lr_max": ("steps", "lr"),
}


def cards_html(
    log: RunLog,
    metrics: dict[str, float | int | None],
    baseline: dict[str, float | int | None] | None = None,
) -> str:
    """The key numbers; those that were not measured are left out."""
    cards = []
    for name in METRICS:
        value = metrics.get(name)
        if value is None or name in NO_CARD or (name == "nonfinite" and not value):
            continue
        label = LABELS[name]
        spark = ""
        if name in _SPARKS:
            table, source = _SPARKS[name]
            pair = probed(log, source) if table == "probes" else None
            values = column(getattr(log, table), source) if pair is None else pair[1]
            if values is not None:
                spark = sparkline(values, log=_spark_log(values))
        named = metric_name(log) if name == "val_metric" else ""
        points = shares(name, named)
        change = change_text(value, baseline.get(name), points) if baseline else ""
        text = metric_text(name, value, named)
        if named:
            label = named
            per = "held out, per token" if named == "perplexity" else "held out"
            change = ", ".join(part for part in (per, change) if part)
        cards.append(
            f'<div class="card"><dt>{safe(label)}</dt><dd>{safe(text)}'
            f"{f'<small>{safe(change)}</small>' if change else ''}</dd>{spark}</div>"
        )
    cards += _time_cards(log)
    return card_list(cards)


def _time_cards(log: RunLog) -> list[str]:
    """How long the run took, and a step; nothing where the log holds no clock."""
    wall, step = column(log.steps, "wall_time"), column(log.steps, "step_seconds")
    told = []
    if wall is not None and (seconds := float(wall[np.isfinite(wall)].max())) > 0:
        told.append(("duration", words.duration(seconds)))
    if step is not None:
        middle = float(np.median(step[np.isfinite(step)]))
        told.append(("median step", f"{words.number(middle, 3)}{words.THIN_SPACE}s"))
    return [f'<div class="card"><dt>{k}</dt><dd>{safe(v)}</dd></div>' for k, v in told]


def card_list(cards: Sequence[str]) -> str:
    """The cards on rows of nearly equal length: 12 of them as 6 + 6, not 8 + 4."""
    if not cards:
        return ""
    wide, mid = (-(-len(cards) // -(-len(cards) // most)) for most in (MAX_CARDS, MID_CARDS))
    return f'<dl class="cards" style="--cols:{wide};--mid:{mid}">{"".join(cards)}</dl>'


def _spark_log(values: np.ndarray) -> bool:
    finite = values[np.isfinite(values)]
    return bool(len(finite) and finite.min() > 0 and finite.max() > 30 * finite.min())


def gates_html(gates: Sequence[GateResult]) -> str:
    """What was demanded of the run, and what came out."""
    if not gates:
        return ""
    several = any(gate.run for gate in gates)
    rows = "".join(
        f'<tr class="{gate.outcome.replace(" ", "-")}">'
        f"{f'<td>{safe(gate.run)}</td>' if several else ''}"
        f"<td><code>{safe(gate.expression)}</code></td>"
        f'<td><span class="tag">{safe(gate.outcome)}</span></td><td>{safe(gate.reason)}</td></tr>'
        for gate in gates
    )
    failed = any(gate.failed for gate in gates)
    said = words.sentences([tally(gates)])
    run = "<th scope=col>run</th>" if several else ""
    return (
        f'<section id="gates" class="gates {"bad" if failed else "good"}"><h2>Gates</h2>'
        f"<p class=finding>{said}</p><div class=scroll tabindex=0><table><thead><tr>{run}"
        "<th scope=col>fails if</th><th scope=col>result</th><th scope=col>values</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def meanings_html() -> str:
    """What every number of a card or a table is, and what a gate calls it."""
    rows = tuple(
        (LABELS[name], name, "" if unit == "1" else unit, meaning)
        for name, (unit, meaning) in METRICS.items()
    )
    table = table_html(Table(("number", "in a gate", "unit", "meaning"), rows, "", (0, 1, 2, 3)))
    return f"<details class=data><summary>What these numbers mean</summary>{table}</details>"


def facts_html(pairs: Sequence[tuple[str, object]]) -> str:
    """A definition list; pairs without a value are left out."""
    items = "".join(
        f"<div{' class=long' if len(str(value)) > LONG_FACT else ''}><dt>{safe(name)}</dt>"
        f"<dd>{safe(value)}</dd></div>"
        for name, value in pairs
        if value not in (None, "", ())
    )
    return f'<dl class="facts">{items}</dl>' if items else ""
