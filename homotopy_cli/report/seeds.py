"""Arms of several seeds in words and as a table: where they end, and by how much they differ."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from homotopy_cli.report import words
from homotopy_cli.report.arms import FEW_PAIRS, Arm, Difference, one_number, paired_difference
from homotopy_cli.report.findings import Finding, Verdict, together
from homotopy_cli.report.labels import LABELS
from homotopy_cli.report.panel import Table
from homotopy_cli.report.several import not_healthy, troubles
from homotopy_cli.report.verdict import verdict
from homotopy_cli.runlog.reader import RunLog

LISTED = 4  # arms named in a headline
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


def reference(arms: Sequence[Arm], ends: Sequence[float | None]) -> Arm:
    """The arm that the others are compared with: the best median, a baseline only if alone.

    A run without an end counts as worse than any.
    """
    own = [arm for arm in arms if any(seed is not None for seed in arm.seeds)] or list(arms)
    known = [(_median(arm, ends), _lost(arm, ends) / arm.n, i) for i, arm in enumerate(own)]
    return own[min(known)[2]]


def _median(arm: Arm, ends: Sequence[float | None]) -> float:
    values = sorted(math.inf if (end := ends[i]) is None else end for i in arm.runs)
    return 0.5 * (values[(len(values) - 1) // 2] + values[len(values) // 2])


def _lost(arm: Arm, ends: Sequence[float | None]) -> int:
    return sum(ends[i] is None for i in arm.runs)


def endpoint_table(arms: Sequence[Arm], metrics: Metrics) -> Table:
    """One row per arm: seeds, median endpoint, range, difference from the best arm."""
    name, ends = endpoint(metrics)
    best = reference(arms, ends)
    rows = []
    for arm in arms:
        found = middle(arm, ends)
        lost = _lost(arm, ends)
        low, median, high = (None,) * 3 if found is None else found
        row = [arm.name, words.count(arm.n), *(words.number(v) for v in (median, low, high))]
        row.append(words.count(lost) if lost else "")
        row += _cells(arm, best, ends) if len(arms) > 1 else ()
        rows.append(tuple(row))
    head = ("arm", "seeds", f"{LABELS[name]}, median", "lowest", "highest", "no end")
    if len(arms) == 1:
        return Table(head, tuple(rows))
    head += (f"minus {best.name}", "95 % interval", "pairs")
    caption = (
        f"Differences from {best.name}, which has the lowest median, are medians over the seeds "
        "that both arms ran, with a paired bootstrap interval (10 000 draws, percentiles)."
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
    """Which arms end lowest and cannot be told apart, how the others differ, what is unhealthy."""
    name, ends = endpoint(metrics)
    kind = "held-out loss" if name == "val_loss" else "training loss"
    own = [arm for arm in arms if max(arm.runs) < len(logs)]
    known = [(found, arm) for arm in own if (found := middle(arm, ends)) is not None]
    judged = [verdict(log) for log in logs]
    named = _run_names(own, logs)
    findings = [*_against(own, ends), *not_healthy(judged, named)]
    for told in troubles(logs, judged, named):
        findings += told
    findings += _unhealthy(own, judged)
    total = words.plural(len(own), "arm")
    if not known:
        return Verdict(f"{total}: none with a finite loss at its end.", "bad", tuple(findings))
    best = reference(own, ends)
    low, median, high = middle(best, ends) or min(found for found, _ in known)
    spread = f"{words.number(low)} to {words.number(high)} over {words.plural(best.n, 'seed')}"
    if len(own) == 1:
        of = f"{words.number(median)}, median of {words.plural(best.n, 'seed')}."
        headline = f"{kind[0].upper()}{kind[1:]} {of}"
        spread = f"From {words.number(low)} to {words.number(high)}."
    else:
        headline = apart(own, ends, kind, one_number(logs, own))
        spread = f"The median of {best.name} is {words.number(median)}; {spread}."
    findings.insert(0, Finding("Spread", spread))
    tone, state = together(judged)
    return Verdict(headline, tone, tuple(f for f in findings if f.text), state)


def _run_names(arms: Sequence[Arm], logs: Sequence[RunLog]) -> list[str]:
    names = [""] * len(logs)
    for arm in arms:
        for i, seed in zip(arm.runs, arm.seeds, strict=True):
            names[i] = arm.name if seed is None else f"{arm.name} seed {seed}"
    return names


def _unhealthy(arms: Sequence[Arm], judged: Sequence[Verdict]) -> list[Finding]:
    found = []
    for arm in arms:
        mine = [i for i in arm.runs if judged[i].tone == "bad"]
        if mine:
            text = f"{words.count(len(mine))} of {words.plural(arm.n, 'run')} unhealthy: "
            found.append(Finding(arm.name, text + judged[mine[0]].headline, "bad"))
    return found


def apart(
    arms: Sequence[Arm],
    ends: Sequence[float | None],
    kind: str,
    setting: tuple[str, list[str]] | None,
) -> str:
    """Which arms end lowest: all whose interval against the best holds 0, named as one.

    Args:
        arms: Two or more, in order.
        ends: See endpoint.
        kind: What ends are called.
        setting: The one number they differ in and its values, which make ranges of neighbours.
    """
    best = reference(arms, ends)
    medians = [found[1] if (found := middle(arm, ends)) else math.inf for arm in arms]
    alike, worse, pairs = [], [], []
    for i, arm in enumerate(arms):
        found = None if arm is best else paired_difference(arm, best, ends)
        pairs += [found.n] if found is not None and found.n > 1 else []
        lost = _lost(arm, ends) * best.n > _lost(best, ends) * arm.n  # a larger share of its runs
        if arm is best or not (lost or found is None or found.low > 0 or math.isnan(found.low)):
            alike.append(i)
        elif lost or (found is not None and found.low > 0):
            worse.append(i)
    low, high = (words.number(f(medians[i] for i in alike)) for f in (min, max))
    values = f"{kind} {low}" if low == high else f"{kind} {low} to {high}"
    verb = "end alike"
    if pairs and min(pairs) < FEW_PAIRS:
        verb = f"cannot be told apart by {words.plural(min(pairs), 'pair')} of seeds"
    if len(alike) == 1 and len(worse) + 1 == len(arms):
        return f"{best.name} ends lowest of {words.plural(len(arms), 'arm')}: {values}."
    if len(alike) == 1:
        return f"{best.name} ends lowest of those that share its seeds: {values}."
    if len(alike) == len(arms):
        count = "Both" if len(arms) == 2 else f"All {words.count(len(arms))}"
        return f"{count} arms {verb}: {values}."
    first, last = alike[0], alike[-1]
    gapless = len(alike) == last - first + 1 and len(alike) + len(worse) == len(arms)
    if setting is not None and gapless:
        key, told = setting
        sides = [f"{told[first - 1]}{' and below' * (first > 1)}"] if first else []
        if last + 1 < len(arms):
            sides.append(f"{told[last + 1]}{' and above' * (last + 2 < len(arms))}")
        row = f"{key} {told[first]} to {told[last]}"
        rest = ", and ".join(sides)
    else:
        row, rest = (_listed([arms[i].name for i in some]) for some in (alike, worse))
    are = "is" if len(worse) == 1 else "are"
    return f"{row} {verb}: {values}" + (f"; {rest} {are} worse." if rest else ".")


def _listed(names: Sequence[str]) -> str:
    if len(names) > LISTED:
        return f"{', '.join(names[: LISTED - 1])} and {len(names) - LISTED + 1} more"
    return words.join(names)


def _against(arms: Sequence[Arm], ends: Sequence[float | None]) -> list[Finding]:
    """Each arm's difference from the best, and once how many pairs there are if they are few."""
    best = reference(arms, ends)
    others = [arm for arm in arms if arm is not best]
    found = [paired_difference(arm, best, ends) for arm in others]
    counts = sorted({one.n for one in found if one is not None and one.n > 1})
    rows = []
    if counts and counts[0] < FEW_PAIRS:
        n = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
        text = f"{n} pairs of seeds: below {FEW_PAIRS}, chance alone can make as clear a "
        rows.append(Finding("Pairs", text + "difference, whatever the intervals say."))
    told = [
        Finding(arm.name, _difference(one, best, len(counts) > 1))
        for arm, one in zip(others, found, strict=True)
    ]
    return [*rows, *told]


def _difference(found: Difference | None, best: Arm, count: bool) -> str:
    if found is None:
        return f"No seed in common with {best.name}."
    text = f"{signed(found.median)} against {best.name}"
    if found.n == 1:
        return f"{text}, one pair of seeds: no interval."
    text += f", 95{words.THIN_SPACE}% interval {interval(found)}"
    if count:
        text += f", {words.plural(found.n, 'pair')} of seeds"
    if found.left_out:
        text += f"; {words.plural(found.left_out, 'pair')} without a finite end left out"
    return text + "."
