"""Runs that differ in nothing but their seed are one arm: its median, its spread, its difference.

The interval of a difference is a paired bootstrap: seeds that both arms ran are drawn with
replacement, the statistic is the median of the differences, the interval lies between the 2.5 %
and 97.5 % quantiles of 10,000 draws (Efron & Tibshirani 1993, chapter 13). The generator starts
from a fixed seed, so the same logs give the same bytes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from homotopy_cli.report.facts import recipe, run_name, scheduler_name
from homotopy_cli.runlog.reader import RunLog

IGNORED = ("seed", "out", "name")  # keys of a recipe that do not make another arm
DRAWS, LEVEL = 10_000, 0.95
FEW_PAIRS = 6  # below it even equal signs throughout are no 5 % event: 2·(½)^n > 0.05
LABEL_KEYS = 3  # settings named in an arm's label
_MISSING, _MORE = "–", "+"


@dataclass(frozen=True)
class Arm:
    """Some runs of the same recipe."""

    name: str
    runs: tuple[int, ...]  # indices into the logs, in their order
    seeds: tuple[Any, ...]  # of each run; None where the log does not say

    @property
    def n(self) -> int:
        return len(self.runs)

    @property
    def seeded(self) -> bool:
        """Whether its runs differ in their seed; the same seed twice is no spread."""
        return len(set(self.seeds)) > 1


def arms(logs: Sequence[RunLog], *, ignoring: Sequence[str] = IGNORED) -> list[Arm]:
    """Group runs whose recipes differ only in `ignoring` (dotted keys), in order of appearance.

    A log without a recipe is an arm of its own. Names say what differs between the arms.
    """
    flat = [dict(flattened(recipe(log))) for log in logs]
    seeds = [_seed(log) for log in logs]
    groups: dict[str, list[int]] = {}
    for i, settings in enumerate(flat):
        kept = {key: value for key, value in settings.items() if not _under(key, ignoring)}
        key = json.dumps(kept, sort_keys=True) if kept else f"run {i}"
        groups.setdefault(key, []).append(i)
    members = list(groups.values())
    names = _names(
        [logs[runs[0]] for runs in members], [flat[runs[0]] for runs in members], ignoring
    )
    return [
        Arm(name, tuple(runs), tuple(seeds[i] for i in runs))
        for name, runs in zip(names, members, strict=True)
    ]


def names_by_recipe(logs: Sequence[RunLog]) -> list[str] | None:
    """What sets each run's recipe apart, if that is at most three settings; else None."""
    found = arms(logs)
    named = all(recipe(log) for log in logs) and len(found) == len(logs) > 1
    if not named or any(f" {_MORE}" in arm.name for arm in found):
        return None
    return [arm.name for arm in found]


def _under(key: str, parents: Sequence[str]) -> bool:
    return any(key == parent or key.startswith(parent + ".") for parent in parents)


def _seed(log: RunLog) -> Any:
    seed = recipe(log).get("seed", log.provenance.get("seed"))
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def _names(
    firsts: Sequence[RunLog], flat: Sequence[Mapping[str, str]], ignoring: Sequence[str]
) -> list[str]:
    """What sets each arm apart: `lr=0.01`, or the scheduler's name if nothing else differs."""
    keys = sorted({key for settings in flat for key in settings if not _under(key, ignoring)})
    differ = [key for key in keys if len({settings.get(key) for settings in flat}) > 1]
    schedulers = [scheduler_name(log) for log in firsts]
    if (
        differ
        and len(set(schedulers)) == len(firsts)
        and all(k.startswith("scheduler") for k in differ)
    ):
        return schedulers
    names = []
    for log, settings in zip(firsts, flat, strict=True):
        told = [f"{_short(key, keys)}={settings.get(key, _MISSING)}" for key in differ[:LABEL_KEYS]]
        more = [f"{_MORE}{len(differ) - LABEL_KEYS}"] if len(differ) > LABEL_KEYS else []
        names.append(" ".join([*told, *more]) or scheduler_name(log) or run_name(log))
    return [
        name if names.count(name) == 1 else f"{name} #{names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]


def _short(key: str, keys: Sequence[str]) -> str:
    """The last part of a dotted key, if no other key ends in it."""
    last = key.rsplit(".", 1)[-1]
    return last if sum(other.rsplit(".", 1)[-1] == last for other in keys) == 1 else key


def flattened(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted key, text)."""
    if isinstance(value, Mapping):
        pairs = []
        for key, inner in value.items():
            pairs += flattened(inner, f"{prefix}.{key}" if prefix else str(key))
        return pairs
    return [(prefix, value if isinstance(value, str) else json.dumps(value, default=str))]


@dataclass(frozen=True)
class Difference:
    """An arm's endpoint minus the first arm's, over the seeds that both ran."""

    n: int  # pairs with both endpoints finite
    left_out: int  # pairs in which a run has no finite endpoint
    median: float  # of the differences
    low: float  # NaN where there is one pair only
    high: float


def paired_difference(arm: Arm, first: Arm, endpoint: Sequence[float | None]) -> Difference | None:
    """Compare two arms seed by seed; None if no seed pairs up.

    Args:
        arm, first: The arms. Seeds that occur twice in one arm, or are unknown, pair with nothing.
        endpoint: One number per log, None where the run has none.

    Cost: 10,000 medians of n numbers.
    """
    here, there = _by_seed(arm), _by_seed(first)
    pairs = [(endpoint[here[s]], endpoint[there[s]]) for s in here if s in there]
    known = np.array([a - b for a, b in pairs if a is not None and b is not None])
    if not len(known):
        return None
    low, high = median_interval(known)
    return Difference(len(known), len(pairs) - len(known), float(np.median(known)), low, high)


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """Bootstrap interval of the median of values (n,), n >= 1; NaN where n is 1."""
    if len(values) < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(0)
    drawn = values[generator.integers(0, len(values), (DRAWS, len(values)))]
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(np.median(drawn, axis=1), [tail, 100 - tail])
    return float(low), float(high)


def _by_seed(arm: Arm) -> dict[Any, int]:
    return {
        seed: run
        for seed, run in zip(arm.seeds, arm.runs, strict=True)
        if seed is not None and arm.seeds.count(seed) == 1
    }
