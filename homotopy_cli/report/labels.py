"""What the page calls each metric, how its value is written, and a difference between two."""

from collections.abc import Sequence

from homotopy_cli.report import words
from homotopy_cli.report.metrics import metric_name
from homotopy_cli.runlog.reader import RunLog

LABELS = {
    "final_loss": "final loss",
    "best_loss": "best loss",
    "val_loss": "held-out loss",
    "val_metric": "held-out metric",
    "steps": "steps",
    "spikes": "loss spikes",
    "spike_score": "spike score",
    "max_lambda_max": "peak λ_max",
    "max_kappa": "peak κ",
    "max_edge_ratio": "peak edge ratio",
    "overhead": "probe share",
    "nonfinite": "non-finite steps",
    "lr_min": "lowest LR",
    "lr_max": "peak LR",
    "warmup_steps": "warmup steps",
}
NO_CARD = ("lr_min",)
MANY = 10.0  # times the reference: from here on a percentage says less than a factor
_FORMS = {
    "steps": "count",
    "spikes": "count",
    "warmup_steps": "count",
    "nonfinite": "count",
    "lr_min": "rate",
    "lr_max": "rate",
}
_SHARES = {"overhead": 100.0, "spike_score": 1.0}  # times which they are percent


def label(metric: str, logs: Sequence[RunLog]) -> str:
    """A metric's name in a table: the held-out metric says what it is where all logs agree."""
    named = agreed_name(metric, logs)
    return f"{named} (held out)" if named else LABELS[metric]


def row_name(metric: str, logs: Sequence[RunLog]) -> str:
    """The same as a gate calls it."""
    named = agreed_name(metric, logs)
    return f"{metric} ({named})" if named else metric


def agreed_name(metric: str, logs: Sequence[RunLog]) -> str:
    """accuracy or perplexity, if the metric is val_metric and all logs that tell agree."""
    named = {metric_name(log) for log in logs} - {""} if metric == "val_metric" else set()
    return named.pop() if len(named) == 1 else ""


def shares(metric: str, named: str = "") -> float | None:
    """What makes percent of a share; None for what is no share.

    Args:
        metric: Its name.
        named: What val_metric is.
    """
    return 100.0 if named == "accuracy" else _SHARES.get(metric)


def metric_text(metric: str, value: float | int | None, named: str = "") -> str:
    """A metric as a reader wants it; `named` as in shares."""
    if value is None:
        return words.NONE
    form = _FORMS.get(metric, "")
    if form == "count":
        return words.count(value)
    if form == "rate":
        return words.rate(value)
    if named == "accuracy":
        return f"{words.number(100 * value)}{words.THIN_SPACE}%"
    if metric in _SHARES:
        return words.percent(value * _SHARES[metric] / 100)
    return words.number(value)


def change_text(
    now: float | int | None, before: float | int | None, points: float | None = None
) -> str:
    """How a metric differs from the baseline's; nothing if either is unknown.

    Args:
        now, before: The values.
        points: See shares: a difference of shares is one of percentage points.
    """
    if now is None or before is None:
        return ""
    if points is not None:
        return f"{said} vs baseline" if (said := _points(now, before, points)) else "as baseline"
    if now == before or (before and abs(now / before - 1) < 5e-5):
        return "as baseline"
    if before == 0 or (now > 0) != (before > 0):
        return f"baseline {words.number(before)}"
    change = now / before - 1
    if change >= MANY:  # as in the tables of compare
        return f"{words.number(now / before, 3)} times the baseline"
    return f"{'+' if change > 0 else '−'}{words.percent(abs(change))} vs baseline"


def difference(
    now: float | int | None, before: float | int | None, points: float | None = None
) -> str:
    """+3.1 %, 31 times from ten on, +2 where the reference is 0; nothing if alike to 5e-5.

    Of shares: +12 points, of a hundred.
    """
    if now is None or before is None or now == before:
        return ""
    if points is not None:
        return _points(now, before, points)
    if before == 0:
        return f"{'+' if now > 0 else '−'}{words.number(abs(now), 3)}"
    change = (now - before) / abs(before)
    if abs(change) < 5e-5:
        return ""
    if abs(change) >= MANY and now / before > 0:
        return f"{words.number(now / before, 3)} times"
    return f"{'+' if change > 0 else '−'}{words.percent(abs(change))}"


def _points(now: float, before: float, points: float) -> str:
    gap = points * (now - before)
    if abs(gap) < 5e-3:
        return ""
    size = words.number(abs(gap), 2)
    return f"{'+' if gap > 0 else '−'}{size} point{'' if size == '1' else 's'}"
