"""Loss spikes and losses that are not finite, with what the probes before them say of the cause."""

from collections.abc import Sequence

import numpy as np

from homotopy_cli.report import spikes as spike_rule
from homotopy_cli.report import words
from homotopy_cli.report.advice import probes_before
from homotopy_cli.report.alarms import warning_before
from homotopy_cli.report.figures.edge import NEAR, RED
from homotopy_cli.report.findings import Finding
from homotopy_cli.report.series import column
from homotopy_cli.runlog.reader import RunLog


def stability(log: RunLog) -> Finding:
    """Spikes and non-finite rows, both where there are both."""
    label = "Stability"
    loss = column(log.steps, "loss")
    if loss is None or len(loss) < 2:
        return Finding(label, "")
    events = [s for s in spike_rule.find_spikes(loss) if np.isfinite(loss[s.row])]
    bad = ~np.isfinite(loss)
    if bad.any():
        first = int(log.step[np.argmax(bad)])
        text = words.gaps("loss", log.step, loss) + _signs_before(log, [first])
        text += edge_before(log, first)
        return Finding(label, words.sentences([text, _spikes(log, events)]), "bad")
    if not events:
        quiet = "No loss spike." if len(loss) > spike_rule.WARMUP else ""
        return Finding(label, quiet, "good" if quiet else "plain")
    lasting = _worst(events).recovered is None
    return Finding(label, _spikes(log, events) + ".", "bad" if lasting else "watch")


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
    text += edge_before(log, int(log.step[worst.row]))
    return text


def _signs_before(log: RunLog, steps: list[int]) -> str:
    said = warning_before(log, steps)
    return f"; {said}" if said else ""


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
