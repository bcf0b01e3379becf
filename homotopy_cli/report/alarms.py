"""Alarms that training wrote before or without a loss spike: which, where, what followed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from homotopy_cli.records import ALARMS, SPIKE_AFTER
from homotopy_cli.report import words
from homotopy_cli.report.series import column
from homotopy_cli.runlog.reader import RunLog


@dataclass(frozen=True)
class Alarm:
    """One alarm; `value` is None where the log has none."""

    step: int
    name: str  # the column
    value: float | None
    limit: float


LABELS = {"update_rms": "update RMS", "second_moment_ratio": "second-moment ratio"}
_NAMES = {code: name for name, (code, _) in ALARMS.items()}


def alarms(log: RunLog) -> list[Alarm]:
    """The alarms among the log's events, in order of steps."""
    columns = {name: column(log.steps, name) for name in ALARMS}
    found = []
    for event in log.events:
        name = _NAMES.get(event.code)
        if name is None:
            continue
        values, rows = columns[name], np.flatnonzero(log.step == event.step)
        known = values is not None and len(rows) and np.isfinite(values[rows[-1]])
        value = float(values[rows[-1]]) if known else None
        found.append(Alarm(int(event.step), name, value, ALARMS[name][1]))
    return sorted(found, key=lambda alarm: (alarm.step, alarm.name))


def before(found: Sequence[Alarm], step: int) -> list[Alarm]:
    """Those 1 to 8 steps before `step`."""
    return [alarm for alarm in found if 0 < step - alarm.step <= SPIKE_AFTER]


def warning_before(log: RunLog, spikes: Sequence[int]) -> str:
    """Which spikes an alarm preceded, in words; nothing if none.

    Args:
        spikes: The steps at which spikes begin.
    """
    found = alarms(log)
    warned = [step for step in spikes if before(found, step)]
    if not warned:
        return ""
    first = before(found, warned[0])[0]
    ahead = words.plural(warned[0] - first.step, "step")
    size = "" if first.value is None else f" {words.number(first.value, 3)}"
    said = f"{LABELS[first.name]}{size} at step {words.count(first.step)}"
    said += f", above its alarm of {first.limit:g}"
    if len(spikes) == 1:
        return f"an early sign came {ahead} before it ({said})"
    which = f"{words.count(len(warned))} of the {words.count(len(spikes))} spikes"
    return f"an early sign came before {which}, first {ahead} ahead ({said})"
