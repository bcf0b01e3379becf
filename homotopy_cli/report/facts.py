"""What a log says about its own run, beside its columns: recipe, names, marks."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from homotopy_cli.report import spikes as spike_rule
from homotopy_cli.report.series import column
from homotopy_cli.runlog.reader import RunLog


def recipe(log: RunLog) -> Mapping[str, Any]:
    """The resolved recipe as a mapping; empty if the log holds none that can be read."""
    resolved = log.provenance.get("recipe_resolved") or {}
    if isinstance(resolved, str):
        try:
            resolved = json.loads(resolved)
        except ValueError:
            return {}
    return resolved if isinstance(resolved, Mapping) else {}


def setting(log: RunLog, *path: str) -> Any:
    """One setting of the recipe, or None: setting(log, "scheduler", "name")."""
    value: Any = recipe(log)
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def scheduler_name(log: RunLog) -> str:
    """The scheduler's name, or nothing."""
    spec = setting(log, "scheduler")
    name = spec.get("name") if isinstance(spec, Mapping) else spec
    return str(name) if name else ""


def target(log: RunLog) -> float | None:
    """The edge ratio the scheduler steers to, if the recipe fixes it to a number."""
    value = setting(log, "scheduler", "target")
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
    return float(value) if usable else None


def adam_beta1(log: RunLog) -> float | None:
    """β₁ of the recipe's optimizer, or None if it is no Adam."""
    name = setting(log, "optimizer", "name")
    if not isinstance(name, str) or "adam" not in name.lower():
        return None
    if any(other in name.lower() for other in ("nadam", "radam", "adamax")):
        return None  # other laws
    betas = setting(log, "optimizer", "betas")
    beta1 = betas[0] if isinstance(betas, (list, tuple)) and betas else 0.9
    usable = isinstance(beta1, (int, float)) and not isinstance(beta1, bool) and 0 <= beta1 < 1
    return float(beta1) if usable else None


def run_name(log: RunLog) -> str:
    """What to call this run: the recipe's name, the run id, or the file's name."""
    for name in (setting(log, "name"), log.attrs.get("run_id")):
        if isinstance(name, str) and name.strip():
            return name.strip()
    return file_name(log)


def file_name(log: RunLog) -> str:
    """The log's file name without its suffix."""
    file = str(log.path).replace("\\", "/").rsplit("/", 1)[-1]
    return file.removesuffix(".h5") or "run"


def is_probe(log: RunLog) -> bool:
    """A log of one point in parameter space, made by `homotopy probe --out`."""
    return len(log.probe_step) == 1 and len(log.step) <= 1


@dataclass(frozen=True)
class Mark:
    """A step worth a vertical line in every panel."""

    step: int
    label: str
    level: str  # spike, warning, error, nonfinite


MAX_MARKS = 12  # more lines than this would hide the curves


def marks(log: RunLog) -> list[Mark]:
    """Spikes by height, then errors and warnings that are not about one of them, by step."""
    found: list[Mark] = []
    loss = column(log.steps, "loss")
    if loss is not None:
        bad = ~np.isfinite(loss)
        if bad.any():
            found.append(Mark(int(log.step[bad.argmax()]), "loss non-finite", "nonfinite"))
        events = sorted(spike_rule.find_spikes(loss), key=lambda s: -s.score)
        found += [Mark(int(log.step[s.row]), "spike", "spike") for s in events]
    taken = [mark.step for mark in found]
    order = {"error": 0, "warning": 1}
    told = sorted(
        (e for e in log.events if e.level in order), key=lambda e: (order[e.level], e.step)
    )
    for event in told:
        if all(abs(event.step - step) > 10 for step in taken):
            found.append(Mark(int(event.step), event.code, event.level))
            taken.append(int(event.step))
    return sorted(found[:MAX_MARKS], key=lambda mark: (mark.step, mark.label))
