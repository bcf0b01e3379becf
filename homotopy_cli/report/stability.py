"""Loss spikes and losses that are not finite, with what the probes before them say of the cause."""

from collections.abc import Sequence

import numpy as np

from homotopy_cli.report import spikes as spike_rule
from homotopy_cli.report import words
from homotopy_cli.report.advice import probes_before
from homotopy_cli.report.alarms import warning_before
from homotopy_cli.report.events import alarms_before
from homotopy_cli.report.figures.edge import NEAR, RED
from homotopy_cli.report.findings import Finding, Tone
from homotopy_cli.report.series import column
from homotopy_cli.runlog.reader import RunLog

EARLY_ROWS, EARLY_RISE, EARLY_SD = 8, 0.3, 5.0  # rows before, rise and sd of a jump; our choice
EARLY_LASTS, EARLY_ABOVE = 2, 1.25  # rows of a jump, or factor over all before; our choice


def stability(log: RunLog) -> Finding:
    """Spikes and non-finite rows, both where there are both."""
    label = "Stability"
    loss = column(log.steps, "loss")
    if loss is None or len(loss) < 2:
        return Finding(label, "")
    events = [s for s in spike_rule.find_spikes(loss) if np.isfinite(loss[s.row])]
    bad, early = ~np.isfinite(loss), _early(log, loss)
    if bad.any():
        first = int(log.step[np.argmax(bad)])
        text = words.gaps("loss", log.step, loss) + _signs_before(log, [first])
        text += edge_before(log, first)
        return Finding(
            label, words.sentences([text, _spikes(log, events), _early(log, loss)]), "bad"
        )
    early = _early(log, loss)
    if not events:
        judged = len(loss) > spike_rule.WARMUP
        since = words.count(log.step[spike_rule.WARMUP]) if judged else ""
        quiet = f"no loss spike{f' from step {since} on' if early else ''}" if judged else ""
        tone: Tone = "watch" if early else "good" if quiet else "plain"
        return Finding(label, words.sentences([early, quiet]), tone)
    lasting = _worst(events).recovered is None
    text = words.sentences([_spikes(log, events), early])
    return Finding(label, text, "bad" if lasting else "watch")


def _early(log: RunLog, loss: np.ndarray) -> str:
    """Jumps before the rule for spikes has rows enough, in words; "" for none."""
    rows = early_jumps(loss)
    if not rows:
        return ""
    top = max(rows, key=lambda row: loss[row] - loss[row - 1])
    times = "once" if len(rows) == 1 else f"{words.count(len(rows))} times early on, the highest"
    at = f"at step {words.count(log.step[top])}"
    return f"the loss jumped {times} {at}, {words.number(loss[top - 1], 3)} to " + words.number(
        loss[top], 3
    )


def early_jumps(loss: np.ndarray) -> list[int]:
    """First rows of jumps among the first 32 rows (n,), which the rule for spikes cannot judge.

    A jump is above 1.3 times the median of the 8 rows before it, or above the run's first loss,
    after the loss had fallen below that; 5 sd of those rows above their median; and it lasts for a
    second row, or is 1.25 times all that was before, for one hard batch is none. What is not finite
    is no jump: it is told by itself.
    """
    found: list[int] = []
    for row in range(EARLY_ROWS, min(spike_rule.WARMUP, len(loss))):
        before = loss[row - EARLY_ROWS : row]
        if not np.isfinite(loss[row]) or not np.isfinite(before).all():
            continue
        middle, spread = float(np.median(before)), float(before.std(ddof=1))
        if middle >= loss[0] or loss[row] - middle <= EARLY_SD * spread:
            continue
        bar = min(middle + EARLY_RISE * abs(middle), float(loss[0]))
        lasts = loss[row : row + EARLY_LASTS]
        lasting = np.isfinite(lasts).all() and lasts.min() > max(bar, float(before.max()))
        highest = loss[row] > EARLY_ABOVE * np.nanmax(loss[:row])
        if (lasting or highest) and (not found or row - found[-1] > spike_rule.MERGE):
            found.append(row)
    return found


def _worst(events: Sequence[spike_rule.Spike]) -> spike_rule.Spike:
    return max(events, key=lambda s: s.peak - s.base)


def _spikes(log: RunLog, events: Sequence[spike_rule.Spike]) -> str:
    """How many, where, how high the worst, and what came before; "" for none."""
    if not events:
        return ""
    worst = _worst(events)
    where = words.join([words.count(log.step[s.row]) for s in events[:4]])
    if len(events) > 4:
        where += " …"
    text = f"{words.plural(len(events), 'loss spike')}, at step{'s' * (len(events) > 1)} {where}"
    which = "the worst" if len(events) > 1 else "it"
    text += f"; {which} rose from {words.number(worst.base, 3)} to {words.number(worst.peak, 3)}"
    text += (
        f" and was over after {words.plural(worst.recovered, 'step')}"
        if worst.recovered is not None
        else " and did not recover"
    )
    text += _signs_before(log, [int(log.step[s.row]) for s in events])
    text += _alarms_before(log, int(log.step[worst.row]))
    text += edge_before(log, int(log.step[worst.row]))
    return text


def _signs_before(log: RunLog, steps: list[int]) -> str:
    said = warning_before(log, steps)
    return f"; {said}" if said else ""


def _alarms_before(log: RunLog, step: int) -> str:
    """Since when the run's own alarms had led up to a step; "" where they had not."""
    found = alarms_before(log.events, step)
    if found is None:
        return ""
    first, n = found
    return f"; the run gave {words.count(n)} alarms from step {words.count(first)} on"


def edge_before(log: RunLog, step: int) -> str:
    """What the last probes before a step say about its cause; nothing if there are none.

    Looks at the three probes up to `step`: the edge ratio moves within a few of them.
    """
    seen = probes_before(log, step)
    if seen is None:
        return ""
    steps, ratio = seen
    peak = int(np.argmax(ratio))
    read = f"{words.number(float(ratio[peak]), 3)} at step {words.count(steps[peak])}"
    if ratio[peak] > RED:
        return f"; training was beyond the edge of stability just before (edge ratio {read})"
    if ratio[peak] > NEAR:
        return f"; training was close to the edge of stability just before (edge ratio {read})"
    return f"; no probe just before it was near the edge of stability (edge ratio at most {read})"
