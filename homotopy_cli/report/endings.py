"""How far above its best a run ended: overfitting, or a rise of the loss that lasted."""

import numpy as np

from homotopy_cli.report import words
from homotopy_cli.report.facts import recipe, setting
from homotopy_cli.report.figures.loss import smoothing_window
from homotopy_cli.report.findings import Finding, Tone
from homotopy_cli.report.series import column, trailing_mean
from homotopy_cli.runlog.reader import RunLog

WATCH, BAD = 0.02, 0.20  # shares of the best above which an end is told, and is bad; our choice
GAINED = 0.002  # share of what the run had gained that a rise must exceed: 1e-9 after 1e-12 is none
NOISE = 5.0  # standard errors of the smoothed training loss that a rise must exceed; our choice
SHORT = 100  # rows; the loss of shorter runs is not smoothed
HELD_OUT, TRAINING = "Held out", "Loss"
LABELS = (HELD_OUT, TRAINING)


def held_out(log: RunLog) -> Finding:
    """The last held-out loss against the best one; no text where it ended near it."""
    values = column(log.evals, "eval_loss")
    if values is None:
        return Finding(HELD_OUT, "")
    known = np.isfinite(values)
    steps, values = np.asarray(log.eval_step)[known], values[known]
    rise = _rise(values)
    if rise is None:
        return Finding(HELD_OUT, "")
    best, share, tone = rise
    text = f"Ended at {words.number(values[-1])}, {words.percent(share)} above its best, "
    text += f"{words.number(values[best])} at step {words.count(steps[best])}{_kept(log)}."
    return Finding(HELD_OUT, text, tone)


def _kept(log: RunLog) -> str:
    if not recipe(log):
        return ""
    if setting(log, "keep_best") in (True, "true"):
        return "; best.pt holds the weights of that one"
    return ": keep_best would have kept that one"


def training(log: RunLog) -> Finding:
    """The smoothed training loss at the end against its lowest; no text where it is near it."""
    loss = column(log.steps, "loss")
    if loss is None or len(loss) < SHORT or not np.isfinite(loss).all():
        return Finding(TRAINING, "")
    window = smoothing_window(len(loss))
    smooth = trailing_mean(loss, window)
    whole = smooth[min(8 * window, len(loss) // 4) :]  # the means before are of fewer rows
    steps = log.step[len(loss) - len(whole) :]
    rise = _rise(whole, start=float(loss[0]), least=NOISE * _noise(loss, window))
    if rise is None:
        return Finding(TRAINING, "")
    best, share, _ = rise
    text = f"The mean of the last {words.count(window)} steps ended at {words.number(whole[-1])}, "
    text += f"{words.percent(share)} above its lowest, {words.number(whole[best])} at step "
    return Finding(TRAINING, text + f"{words.count(steps[best])}.", "watch")


def _noise(loss: np.ndarray, window: int) -> float:
    """Standard deviation of one mean about the trend, from neighbouring windows, (n,) rows.

    Of the means and not of the rows: losses with heavy tails, or that hang together, scatter by
    more than their rows' differences say. The largest step is left out, for a rise may be one.
    """
    means = loss[len(loss) % window :].reshape(-1, window).mean(axis=1)[1:]
    steps = np.abs(np.diff(means))
    steps = np.sort(steps)[: max(1, len(steps) - 1)] if len(steps) > 3 else steps  # but for a jump
    return float(np.sqrt(np.mean(steps**2) / 2.0)) if len(steps) else 0.0


def _rise(
    values: np.ndarray, *, start: float | None = None, least: float = 0.0
) -> tuple[int, float, Tone] | None:
    """(Row of the best, share by which the last lies above it, tone); None for no rise."""
    if len(values) < 2:
        return None
    best = int(values.argmin())
    low, rise = float(values[best]), float(values[-1] - values[best])
    first = float(values[0]) if start is None else start
    if low <= 0 or rise <= max(WATCH * low, least, GAINED * (first - low)):
        return None
    share = rise / low
    return best, share, "bad" if share > BAD else "watch"
