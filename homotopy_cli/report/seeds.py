"""Arms of several seeds in words and as a table: where they end, and by how much they differ."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from homotopy_cli.report import words
from homotopy_cli.report.arms import FEW_PAIRS, Arm, Difference, paired_difference
from homotopy_cli.report.findings import Finding, Verdict, together
from homotopy_cli.report.panel import Table
from homotopy_cli.report.verdict import verdict
from homotopy_cli.runlog.reader import RunLog

Metrics = Sequence[Mapping[str, float | int | None]]


def endpoint(metrics: Metrics) -> tuple[str, list[float | None]]:
    """What the arms are judged by, and its value of every run: held-out loss if all ran it.

    A run whose last training loss is not finite has no endpoint, whatever its last evaluation.
    """
    held_out = all(run["val_loss"] is not None for run in metrics if run["final_loss"] is not None)
    name = "val_loss" if held_out and any(run["val_loss"] is not None for run in metrics) else ""
    values = [None if run["final_loss"] is None else run[name or "final_loss"] for run in metrics]
    return name or "final_loss", [None if v is None else float(v) for v in values]


def middle(arm: Arm, ends: Sequence[float | None]) -> tuple[float, float, float] | None:
    """Smallest, median and largest endpoint of an arm; None if no run of it has one."""
    known = [ends[i] for i in arm.runs if ends[i] is not None]
    if not known:
        return None
    return float(min(known)), float(np.median(known)), float(max(known))


def endpoint_table(arms: Sequence[Arm], metrics: Metrics) -> Table:
    """One row per arm: seeds, median endpoint, range, difference from the first arm."""
    name, ends = endpoint(metrics)
    rows = []
    for arm in arms:
        found = middle(arm, ends)
        lost = sum(ends[i] is None for i in arm.runs)
        low, median, high = (None,) * 3 if found is None else found
        row = [arm.name, words.count(arm.n), *(words.number(v) for v in (median, low, high))]
        row.append(words.count(lost) if lost else "")
        row += _cells(arm, arms[0], ends) if len(arms) > 1 else ()
        rows.append(tuple(row))
    head = ("arm", "seeds", f"{name}, median", "lowest", "highest", "no end")
    if len(arms) == 1:
        return Table(head, tuple(rows))
    head += (f"minus {arms[0].name}", "95 % interval", "pairs")
    caption = (
        "Differences are medians over the seeds that both arms ran, with a paired bootstrap "
        "interval (10 000 draws, percentiles)."
    )
    return Table(head, tuple(rows), caption)


def _cells(arm: Arm, first: Arm, ends: Sequence[float | None]) -> tuple[str, str, str]:
    found = None if arm is first else paired_difference(arm, first, ends)
    if found is None:
        return "", "", ""
    return signed(found.median), interval(found), words.count(found.n)


def signed(value: float) -> str:
    """+0.012, −0.012 or 0."""
    if value == 0:
        return "0"
    return f"{'−' if value < 0 else '+'}{words.number(abs(value), 3)}"


def interval(found: Difference) -> str:
    """`−0.02 to +0.01`, or nothing for one pair."""
    return "" if math.isnan(found.low) else f"{signed(found.low)} to {signed(found.high)}"


def seeds_verdict(arms: Sequence[Arm], logs: Sequence[RunLog], metrics: Metrics) -> Verdict:
    """Which arm ends lowest, how the others differ from the first, and what is unhealthy."""
    name, ends = endpoint(metrics)
    kind = "held-out loss" if name == "val_loss" else "training loss"
    own = [arm for arm in arms if max(arm.runs) < len(logs)]
    known = [(found, arm) for arm in own if (found := middle(arm, ends)) is not None]
    findings = [_against_first(arm, arms[0], ends) for arm in own[1:]]
    judged = [verdict(log) for log in logs]
    bad = [i for i, one in enumerate(judged) if one.tone == "bad"]
    for arm in own:
        mine = [i for i in arm.runs if i in bad]
        if mine:
            text = f"{words.count(len(mine))} of {words.plural(arm.n, 'run')} unhealthy: "
            findings.append(Finding(arm.name, text + judged[mine[0]].headline, "bad"))
    total = words.plural(len(own), "arm")
    if not known:
        return Verdict(f"{total}: none with a finite loss at its end.", "bad", tuple(findings))
    (low, median, high), best = min(known, key=lambda pair: pair[0][1])
    spread = f"{words.number(low)} to {words.number(high)} over {words.plural(best.n, 'seed')}"
    if len(own) == 1:
        of = f"{words.number(median)}, median of {words.plural(best.n, 'seed')}."
        headline = f"{kind[0].upper()}{kind[1:]} {of}"
        spread = f"From {words.number(low)} to {words.number(high)}."
    else:
        headline = f"{best.name} ends lowest of {total}: {kind} {words.number(median)}."
        spread = f"That is the median; {spread}."
    findings.insert(0, Finding("Spread", spread))
    tone, state = together(judged)
    return Verdict(headline, tone, tuple(f for f in findings if f.text), state)


def _against_first(arm: Arm, first: Arm, ends: Sequence[float | None]) -> Finding:
    found = paired_difference(arm, first, ends)
    if found is None:
        return Finding(arm.name, f"No seed in common with {first.name}.")
    text = f"{signed(found.median)} against {first.name}"
    if found.n == 1:
        return Finding(arm.name, f"{text}, one pair of seeds: no interval.")
    text += f", 95{words.THIN_SPACE}% interval {interval(found)}, {found.n} pairs of seeds"
    if found.n < FEW_PAIRS:
        text += " (too few to tell a difference from chance)"
    if found.left_out:
        text += f"; {words.plural(found.left_out, 'pair')} without a finite end left out"
    return Finding(arm.name, text + ".")
