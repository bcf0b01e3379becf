"""What to do about a run that went wrong: the last line of the headline. From the log alone."""

import re

import numpy as np

from homotopy_cli.report import spikes as spike_rule
from homotopy_cli.report import words
from homotopy_cli.report.facts import recipe
from homotopy_cli.report.figures.edge import NEAR, RED, lr_at_probes
from homotopy_cli.report.series import column, probed
from homotopy_cli.runlog.reader import RunLog

PROBES_BEFORE = 3  # probes before an event that may tell its cause; our choice
STALE = 20  # steps after which a probe says little about a step; our choice


def trouble(log: RunLog) -> int | None:
    """The step to look at: the first whose loss is not finite, else where the worst spike began."""
    loss = column(log.steps, "loss")
    if loss is None:
        return None
    bad = ~np.isfinite(loss)
    if bad.any():
        return int(log.step[bad.argmax()])
    events = spike_rule.find_spikes(loss)
    if not events:
        return None
    return int(log.step[max(events, key=lambda s: s.peak - s.base).row])


def probes_before(log: RunLog, step: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps and edge ratios of the last three probes up to `step`; None if there are none."""
    pair = probed(log, "edge_ratio")
    if pair is None:
        return None
    steps, ratio = pair
    near = np.flatnonzero((steps <= step) & np.isfinite(ratio))[-PROBES_BEFORE:]
    return (steps[near], ratio[near]) if len(near) else None


def spoilt_batch(log: RunLog) -> str:
    """What the run's own DIVERGED event says of values in the batch that are not finite, or ""."""
    said = [event.message for event in log.events if event.code == "DIVERGED"]
    found = re.search(r"the batch of step .* holds .*", said[-1]) if said else None
    return found[0] if found else ""


def next_step(log: RunLog) -> str:
    """What to try, and why, in at most three sentences; "" where nothing calls for it."""
    step = trouble(log)
    if step is None:
        if log.attrs.get("status") != "running":
            return ""
        resume = "; homotopy train --resume then continues it" if recipe(log) else ""
        return f"the log is still open: the run goes on, or was killed{resume}"
    batch = spoilt_batch(log)
    if batch:
        return f"{batch}: look at where the data are made; the learning rate did not do it"
    seen = probes_before(log, step)
    if seen is None:
        return (
            f"no probe before step {words.count(step)}: this log cannot tell whether the learning "
            "rate did it. Repeat the run with the same seed and curvature measured, or run "
            "homotopy probe on a checkpoint from before"
        )
    steps, ratio = seen
    ceiling = column(log.steps, "ceiling_lr")
    held = ceiling is not None and bool(np.isfinite(ceiling).any())
    ahead = step - int(steps[-1])
    if ratio.max() > NEAR and held:
        return (
            f"the ceiling was too late or too high; the last probe came {_ahead(ahead)}. Probe "
            "more often (a higher curvature.budget), or ask for more distance (a lower "
            "scheduler.target)"
        )
    if ratio.max() > NEAR:
        return (
            f"suspect the learning rate{_edge_rate(log, steps, ratio)}. Lower its peak, or let "
            "curvature hold it: scheduler homotopy with yours as inner, or HomotopyLR in a loop"
        )
    if ahead > STALE:
        return (
            f"the last probe came {_ahead(ahead)}, too early to clear the learning rate. Probe "
            "more often (a higher curvature.budget), and look at the batch of step "
            f"{words.count(step)}"
        )
    clipped = column(log.steps, "clip_coef") is not None
    more = "" if clipped else ". No clipping was recorded: it bounds what one batch can do"
    return (
        f"the probes do not blame the learning rate (the last came {_ahead(ahead)}); look at the "
        f"batch of step {words.count(step)} and the one before{more}"
    )


def _ahead(steps: int) -> str:
    return f"{words.plural(steps, 'step')} before" if steps else "at that very step"


def _edge_rate(log: RunLog, steps: np.ndarray, ratio: np.ndarray) -> str:
    """Where the edge lay, of those probes the one that allows most; "" without a rate."""
    lr = lr_at_probes(log)
    if lr is None:
        return ""
    best: tuple[float, float, int] | None = None
    for step, r in zip(steps, ratio, strict=True):
        used = lr[np.flatnonzero(log.probe_step == step)[-1]]
        if r > NEAR and np.isfinite(used) and used > 0 and (best is None or used / r > best[0]):
            best = (float(used / r), float(used), int(step))
    if best is None:
        return ""
    edge, used, at = best
    beyond = "beyond" if used > RED * edge else "near"
    return (
        f": at step {words.count(at)} it was {words.rate(used)}, {beyond} the edge at "
        f"{words.rate(edge)}"
    )
