"""What a sweep found: one line per run for sweep.csv, one per setting for the terminal."""

import csv
import io
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from homotopy_cli.cli.progress import number

if TYPE_CHECKING:
    from homotopy_cli.cli.sweep import Plan

COLUMNS = (
    "val_loss",
    "best_val_loss",
    "val_metric",
    "final_loss",
    "max_edge_ratio",
    "overhead",
    "spikes",
)


def metrics_of(log: Any) -> dict[str, Any]:
    """The row of one run: what `report` measures of it, and the best of its evaluations."""
    import numpy as np

    from homotopy_cli.report.metrics import metric_name, summarise

    evals = np.asarray(log.evals.get("eval_loss", ()), dtype=float)
    finite = evals[np.isfinite(evals)]
    best = float(finite.min()) if len(finite) else None
    more = {"best_val_loss": best, "status": log.status, "metric_name": metric_name(log)}
    return {**summarise(log), **more}


def csv_text(rows: Sequence[tuple["Plan", dict[str, Any]]]) -> str:
    """One line per run: its settings, how it ended, its metrics."""
    file = io.StringIO(newline="")
    keys = [key for key, _ in rows[0][0].cell.settings]
    writer = csv.writer(file)
    writer.writerow([*keys, "seed", "status", "steps", *COLUMNS])
    for plan, found in rows:
        made = [*(v for _, v in plan.cell.settings), plan.loaded.recipe.seed]
        numbers = ["" if found[c] is None else repr(found[c]) for c in COLUMNS]
        writer.writerow([*made, found["status"], found["steps"], *numbers])
    return file.getvalue()


def print_rows(rows: Sequence[tuple["Plan", dict[str, Any]]]) -> None:
    """One line per setting, over its seeds: the median held-out loss and its range."""
    from homotopy_cli.cli.render import console, plain_table, print_table

    arms: dict[tuple[tuple[str, str], ...], list[dict[str, Any]]] = {}
    for plan, found in rows:
        arms.setdefault(plan.cell.settings, []).append(found)
    keys = [key for key, _ in rows[0][0].cell.settings]
    name = "val_loss" if any(found["val_loss"] is not None for _, found in rows) else "final_loss"
    cut = any(_is_cut(found) for _, found in rows)
    told = {found["metric_name"] for _, found in rows if found["val_metric"] is not None}
    metric = "metric" if told else ""
    if len(told) == 1:
        metric = told.pop() or metric
    title = "held-out loss" if name == "val_loss" else "training loss"
    table = plain_table(
        "",
        *((key, "left") for key in keys),
        ("runs", "right"),
        (f"{title}, median", "right"),
        ("lowest", "right"),
        ("highest", "right"),
        *(((f"held-out {metric}, median", "right"),) if metric else ()),
        ("diverged", "right"),
        *((("unfinished", "right"),) if cut else ()),
        ("largest edge ratio", "right"),
    )
    for settings, found in arms.items():
        values = [f[name] for f in found if f[name] is not None]
        edges = [f["max_edge_ratio"] for f in found if f["max_edge_ratio"] is not None]
        middle = _median(found, name)
        table.add_row(
            *(value for _, value in settings),
            str(len(found)),
            *(_loss(x) for x in (middle, min(values, default=None), max(values, default=None))),
            *([_loss(_median(found, "val_metric"))] if metric else ()),
            str(sum(f["status"] == "diverged" for f in found) or ""),
            *([str(sum(_is_cut(f) for f in found) or "")] if cut else ()),
            number(max(edges, default=None)),
        )
    print_table(console(), table)


def _median(found: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [f[name] for f in found if f[name] is not None]
    return statistics.median(values) if values else None


def _is_cut(found: dict[str, Any]) -> bool:
    """Whether the run was stopped on its way: its losses are those of fewer steps."""
    return found["status"] not in ("finished", "diverged")


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"
