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
_MORE = "+"


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
    known = isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0  # -1: unknown
    return seed if known else None


def _names(
    firsts: Sequence[RunLog], flat: Sequence[Mapping[str, str]], ignoring: Sequence[str]
) -> list[str]:
    """What sets each arm apart: `lr=0.01`, or the scheduler's name if nothing else differs."""
    keys, differ = _keys(flat, ignoring)
    schedulers = [scheduler_name(log) for log in firsts]
    if (
        differ
        and len(set(schedulers)) == len(firsts)
        and all(k.startswith("scheduler") for k in differ)
    ):
        return schedulers
    names = []
    for log, settings in zip(firsts, flat, strict=True):
        told = [_label(_short(key, keys), settings.get(key)) for key in differ[:LABEL_KEYS]]
        more = [f"{_MORE}{len(differ) - LABEL_KEYS}"] if len(differ) > LABEL_KEYS else []
        names.append(" ".join([*told, *more]) or scheduler_name(log) or run_name(log))
    return [
        name if names.count(name) == 1 else f"{name} #{names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]


def _label(key: str, value: str | None) -> str:
    return f"{key} unset" if value is None else f"{key}={value}"


def _keys(
    flat: Sequence[Mapping[str, str]], ignoring: Sequence[str] = IGNORED
) -> tuple[list[str], list[str]]:
    """All settings that make an arm, and those of them that differ."""
    keys = sorted({key for settings in flat for key in settings if not _under(key, ignoring)})
    return keys, [key for key in keys if len({settings.get(key) for settings in flat}) > 1]


def in_order(logs: Sequence[RunLog]) -> list[RunLog]:
    """The logs by the numbers they differ in, 0.001 before 0.01, after what else differs.

    As they came where more settings differ than a label names, or none is a number in all logs
    that have it.
    """
    flat = [dict(flattened(recipe(log))) for log in logs]
    differ = _keys(flat)[1]
    if not 0 < len(differ) <= LABEL_KEYS:
        return list(logs)
    keys: list[list[float]] = []
    for key in differ:
        told = [settings.get(key) for settings in flat]
        numbers = [_number(text) for text in told]
        if all(n is not None for n, text in zip(numbers, told, strict=True) if text is not None):
            keys.append([float("-inf") if n is None else n for n in numbers])
        else:
            keys.insert(0, [float(told.index(text)) for text in told])
    return [log for _, log in sorted(enumerate(logs), key=lambda p: [key[p[0]] for key in keys])]


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else float("nan")
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def one_number(logs: Sequence[RunLog], arms: Sequence[Arm]) -> tuple[str, list[str]] | None:
    """(Setting, its value of each arm) where the arms differ in one number only; else None."""
    flat = [dict(flattened(recipe(logs[arm.runs[0]]))) for arm in arms]
    keys, differ = _keys(flat)
    if len(differ) != 1 or any(_number(settings.get(differ[0])) is None for settings in flat):
        return None
    return _short(differ[0], keys), [settings[differ[0]] for settings in flat]


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
