"""The numbers of a run that gates, cards, Markdown and metrics.json share."""

import math
from typing import Any

import numpy as np

from homotopy_cli.report import layers
from homotopy_cli.report import spikes as spike_rule
from homotopy_cli.report.escaping import encodable
from homotopy_cli.report.series import column, last_finite
from homotopy_cli.runlog.reader import RunLog

# name -> (unit, meaning); the order is that of the cards and tables.
METRICS: dict[str, tuple[str, str]] = {
    "final_loss": ("loss", "training loss of the last step; undefined if it is not finite"),
    "best_loss": ("loss", "smallest finite training loss"),
    "val_loss": ("loss", "last finite loss on held-out data"),
    "val_metric": ("1", "last finite metric on held-out data: accuracy, perplexity, ..."),
    "steps": ("step", "optimizer steps in the log"),
    "spikes": ("1", "loss spikes: 6 sd above the last 128 steps for 3 steps, or 20 sd once"),
    "spike_score": ("%", "steps whose loss lies 7 sd (short runs: 6) off its recent mean"),
    "max_lambda_max": ("loss/parameter²", "largest sharpness that was measured"),
    "max_kappa": ("1/loss", "largest finite curvature ratio ‖H‖/‖g‖²"),
    "max_edge_ratio": ("1", "largest lr × sharpness / stability threshold; 1 is the edge"),
    "overhead": ("1", "share of the time that curvature probes took"),
    "nonfinite": ("step", "steps whose loss is NaN or infinite"),
    "lr_min": ("lr", "smallest learning rate used"),
    "lr_max": ("lr", "largest learning rate used"),
    "warmup_steps": ("step", "steps until the learning rate first reached 95 % of its maximum"),
}


@np.errstate(all="ignore")  # a log may hold 1e308; what overflows is undefined
def summarise(log: RunLog) -> dict[str, float | int | None]:
    """All METRICS of one log, in their order; None = not measured or undefined, never NaN."""
    loss = column(log.steps, "loss")
    lr = column(log.steps, "lr")
    lr_finite = lr[np.isfinite(lr)] if lr is not None else np.empty(0)
    loss_all = np.asarray(log.steps.get("loss", np.empty(0)), dtype=np.float64)
    evals = column(log.evals, "eval_loss")
    metric = column(log.evals, "eval_metric")
    return {
        "final_loss": _finite(loss[-1]) if loss is not None else None,
        "best_loss": _extreme(loss, np.min),
        "val_loss": last_finite(evals) if evals is not None else None,
        "val_metric": last_finite(metric) if metric is not None else None,
        "steps": len(log.step),
        "spikes": len(spike_rule.find_spikes(loss)) if loss is not None else None,
        "spike_score": spike_rule.spike_score(loss) if loss is not None else None,
        "max_lambda_max": _extreme(column(log.probes, "lambda_max"), np.max),
        "max_kappa": _extreme(column(log.probes, "kappa"), np.max),
        "max_edge_ratio": _extreme(column(log.probes, "edge_ratio"), np.max),
        "overhead": overhead(log),
        "nonfinite": int((~np.isfinite(loss_all)).sum()) if len(loss_all) else None,
        "lr_min": float(lr_finite.min()) if len(lr_finite) else None,
        "lr_max": float(lr_finite.max()) if len(lr_finite) else None,
        "warmup_steps": warmup_steps(lr) if lr is not None else None,
    }


def metric_name(log: RunLog) -> str:
    """What eval_metric is: perplexity, accuracy, or "" where the log does not tell.

    Our own training logs exp(eval_loss) for tokens, the share of right answers for classes, and
    no other metric; of another writer's only the first can be told.
    """
    metric, loss = column(log.evals, "eval_metric"), column(log.evals, "eval_loss")
    if metric is None:
        return ""
    known = np.isfinite(metric)
    if loss is not None and np.allclose(np.exp(loss[known]), metric[known], rtol=1e-6, atol=0):
        return "perplexity"
    ours = str(log.attrs.get("writer", "")).startswith("homotopy ")
    share = bool(((metric[known] >= 0) & (metric[known] <= 1)).all())
    return "accuracy" if ours and share else ""


def gate_names(log: RunLog, baseline: RunLog | None = None) -> dict[str, Any]:
    """What a gate on this run may name: its metrics, `baseline`, and `layers` by column.

    A layer's value is its latest finite one; columns are named without the prefix `layer_`.
    Where a run has diverged since its last finite evaluation, val_loss and val_metric are
    undefined: no gate shall pass on a number from before.
    """
    names: dict[str, Any] = _judged(log)
    names["layers"] = {
        name.removeprefix("layer_"): [float(value) for value in layers.latest(values)]
        for name, values in layers.measured(log).items()
    }
    if baseline is not None:
        names["baseline"] = _judged(baseline)
    return names


def _judged(log: RunLog) -> dict[str, Any]:
    """The metrics, without those of an evaluation that a divergence has outlived."""
    names: dict[str, Any] = dict(summarise(log))
    evals = column(log.evals, "eval_loss")
    diverged = names["final_loss"] is None and bool(names["nonfinite"])
    if diverged or (evals is not None and not np.isfinite(evals[-1])):
        names |= {"val_loss": None, "val_metric": None}
    return names


def overhead(log: RunLog) -> float | None:
    """Seconds in probes over seconds in all, from the steps' own clock; None if not recorded."""
    step_seconds = column(log.steps, "step_seconds")
    wall = column(log.steps, "wall_time")
    spent = column(log.steps, "probe_seconds_step")
    if spent is None:
        spent = column(log.probes, "probe_seconds")
    if spent is None:
        return None
    if step_seconds is not None:
        total = float(np.nansum(step_seconds))
    elif wall is not None and len(wall) > 1:
        total = float(np.nanmax(wall) - np.nanmin(wall))
    else:
        return None
    share = float(np.nansum(spent)) / total if total > 0 else math.nan
    return _finite(share)


def warmup_steps(lr: np.ndarray) -> int | None:
    """Rows before lr first reaches 95 % of its maximum; 0 for a run that starts there."""
    finite = np.where(np.isfinite(lr), lr, -np.inf)
    top = float(finite.max())
    return int(np.argmax(finite >= 0.95 * top)) if math.isfinite(top) and top > 0 else None


def metrics_document(
    logs: list[RunLog], *, baseline: RunLog | None = None, gates: tuple[Any, ...] = ()
) -> dict[str, Any]:
    """What `report --json` writes: strict JSON values only, the same keys always.

    Where several logs were judged, each gate also has the `run` and the `path` it was decided on.
    """
    return {
        "schema_version": "1.0",
        "runs": [
            {
                "run_id": encodable(str(log.attrs.get("run_id", ""))),
                "path": encodable(str(log.path)),
                "status": encodable(str(log.attrs.get("status", ""))),
                "metrics": summarise(log),
                "missing": list(log.missing),
                "notes": [encodable(note) for note in log.notes],
            }
            for log in logs
        ],
        "baseline": None
        if baseline is None
        else {
            "run_id": encodable(str(baseline.attrs.get("run_id", ""))),
            "metrics": summarise(baseline),
        },
        "gates": [gate.document() for gate in gates],
        "passed": not any(gate.failed for gate in gates),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _extreme(values: np.ndarray | None, which: Any) -> float | None:
    if values is None:
        return None
    finite = values[np.isfinite(values)]
    return float(which(finite)) if len(finite) else None
