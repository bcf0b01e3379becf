"""The experiments' logs as one CSV each, and what the CSVs say as tables.

    python -m tests.benchmarks.experiments collect runs/convex runs/convex_tuned --out convex.csv
    python -m tests.benchmarks.experiments table sample_runs/experiments

`collect` keeps the endpoints of every run that ended by itself; `table` writes results.md beside
the CSVs. Medians over seeds; differences are paired by seed, with the 95 % interval of a bootstrap
of the median (10,000 draws); with three pairs that is their range, which covers a median 3 times
of 4. LR sensitivity is the mean over the rates of min(loss, first loss) less the lowest median of
all arms (Wortsman et al. 2023, arXiv:2309.14322).
"""

import argparse
import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from homotopy_cli.report.arms import flattened, median_interval
from homotopy_cli.report.facts import recipe
from homotopy_cli.report.metrics import summarise
from homotopy_cli.runlog.reader import RunLog, read_log

Row = dict[str, str]
ENDPOINTS = ("status", "steps", "first_loss", "val_loss", "val_metric", "late_variance", "spikes")
EXTRAS = ("lr_max", "max_edge_ratio", "probe_share", "device", "metric_by_step")
COSTS = ("probes", "probe_gradients", "probe_steps")
START = 16  # last step of the early probes, which measure more


def main() -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect")
    collecting.add_argument("folders", nargs="+", type=Path)
    collecting.add_argument("--out", type=Path, required=True)
    collecting.add_argument("--more", nargs="*", default=[], help="keys of the recipe to add")
    collecting.add_argument("--cost", action="store_true", help="add what a probe costs")
    tabling = commands.add_parser("table")
    tabling.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.command == "collect":
        collect(options.folders, options.out, options.more, cost=options.cost)
    else:
        from tests.benchmarks.experiment_tables import document

        (options.folder / "results.md").write_text(document(options.folder))


def collect(
    folders: Iterable[Path], out: Path, more: Sequence[str] = (), *, cost: bool = False
) -> None:
    """One row per log that ended by itself: its settings, then the endpoints.

    Args:
        folders: Of sweeps, each with its sweep.csv.
        out: The CSV.
        more: Keys of the recipe to add, dotted, for what a sweep did not vary.
        cost: Add what a probe costs.
    """
    rows: list[Row] = []
    for folder in folders:
        with open(folder / "sweep.csv", encoding="utf-8") as file:
            planned = list(csv.DictReader(file))
        for log in sorted(folder.glob("*.h5")):
            found = read_log(log)
            if found.status in ("finished", "diverged"):
                settings = dict(flattened(recipe(found)))
                added = {key: str(settings.get(key, "")) for key in more}
                row = settings_of(log.stem, planned) | added | endpoints(found)
                rows.append(row | (costs(found) if cost else {}))
    keys = list(dict.fromkeys(key for row in rows for key in row))
    last = [*ENDPOINTS, *EXTRAS, *(COSTS if cost else ())]
    keys = [k for k in keys if k not in last] + last
    with open(out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, keys, restval="")
        writer.writeheader()
        writer.writerows(rows)


def settings_of(stem: str, planned: Sequence[Mapping[str, str]]) -> Row:
    """What a log's name says: `profile=a_lr=1e-3_seed=2`, under the CSV's full keys."""
    columns = list(planned[0])
    keys = [*columns[: columns.index("seed")], "seed"]
    short = {key.rpartition(".")[2]: key for key in keys}
    found, rest = {}, "_" + stem
    for name in sorted(short, key=lambda name: rest.index(f"_{name}="), reverse=True):
        rest, _, value = rest.rpartition(f"_{name}=")
        found[short[name]] = value
    return {key: found[key] for key in keys}


def endpoints(log: RunLog) -> Row:
    """Numbers of one run; empty where it has none."""
    loss = np.asarray(log.steps["loss"], dtype=float)
    late = loss[-max(2, len(loss) // 10) :]
    evals = {name: np.asarray(values, dtype=float) for name, values in log.evals.items()}
    environment = log.provenance.get("environment") or "{}"
    if isinstance(environment, str):
        environment = json.loads(environment)
    known = summarise(log)
    values: dict[str, Any] = {
        "status": log.status,
        "steps": len(loss),
        "first_loss": float(loss[0]),
        "val_loss": _last(evals.get("eval_loss")),
        "val_metric": _last(evals.get("eval_metric")),
        "late_variance": float(np.var(late)) if np.isfinite(late).all() else None,
        "spikes": known["spikes"],
        "lr_max": known["lr_max"],
        "max_edge_ratio": known["max_edge_ratio"],
        "probe_share": known["overhead"],
        "device": environment.get("device", "cpu"),
        "metric_by_step": _curve(log.eval_step, evals.get("eval_metric")),
    }
    return {name: "" if value is None else _text(value) for name, value in values.items()}


def costs(log: RunLog) -> Row:
    """Probes after the start: how many, their median cost in gradients and in plain steps."""
    late = np.asarray(log.probe_step) > START
    seconds = np.asarray(log.steps["step_seconds"], dtype=float)
    probing = np.asarray(log.steps["probe_seconds_step"], dtype=float)
    plain = np.median((seconds - probing)[START + 1 :])
    told: dict[str, Any] = {
        "probes": int(np.isfinite(log.probes["gradient_equivalents"][late]).sum()),
        "probe_gradients": float(np.nanmedian(log.probes["gradient_equivalents"][late])),
        "probe_steps": float(np.nanmedian(log.probes["probe_seconds"][late]) / plain),
    }
    return {name: _text(value) for name, value in told.items()}


def _curve(steps: np.ndarray, values: "np.ndarray | None") -> str | None:
    """`50:0.312 100:0.371`: what steps_to reads."""
    if values is None:
        return None
    return " ".join(f"{int(s)}:{v:.4g}" for s, v in zip(steps, values, strict=True))


def steps_to(row: Row, target: float) -> int | None:
    """Step of the first evaluation whose metric is at least `target`; None: never."""
    points = [point.split(":") for point in row.get("metric_by_step", "").split()]
    return next((int(step) for step, value in points if float(value) >= target), None)


def _last(values: "np.ndarray | None") -> float | None:
    return None if values is None or not len(values) else float(values[-1])


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------------------- statistics


def cells(rows: Iterable[Row], keys: Sequence[str], column: str) -> dict[tuple, dict[str, float]]:
    """Settings -> seed -> value; a run that diverged counts with its first loss."""
    found: dict[tuple, dict[str, float]] = defaultdict(dict)
    for row in rows:
        value = row[column]
        if row["status"] == "diverged" and column == "val_loss":
            value = row["first_loss"]
        if value:
            found[tuple(row.get(key, "") for key in keys)][row["seed"]] = float(value)
    return dict(found)


def median(values: Mapping[str, float]) -> float:
    """Over the seeds."""
    return statistics.median(values.values())


def sensitivity(
    by_rate: Mapping[str, Mapping[str, float]], best: float, first: float
) -> dict[str, float]:
    """Seed -> mean over the rates of min(loss, first loss) - best, for seeds that have them all."""
    seeds = set.intersection(*(set(values) for values in by_rate.values()))
    return {
        seed: statistics.fmean(min(values[seed], first) - best for values in by_rate.values())
        for seed in sorted(seeds)
    }


def paired(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, float, float, int]:
    """Median of one - other over shared seeds, its bootstrap interval, and how many there are."""
    both = np.array([one[seed] - other[seed] for seed in sorted(one) if seed in other])
    low, high = median_interval(both)
    return float(np.median(both)), low, high, len(both)


if __name__ == "__main__":
    main()
