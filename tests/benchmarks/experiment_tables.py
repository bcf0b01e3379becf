"""What the experiments' CSVs say: one section for each, in words and tables."""

import csv
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from homotopy_cli.report.arms import DRAWS
from tests.benchmarks.experiments import Row, cells, median, paired, sensitivity, steps_to

ZERO = 1e-24  # of the first loss: below it a quadratic is solved
TARGET = 0.4  # accuracy: a small ResNet reaches it well before its 300 steps are over
BETWEEN = "lowest to highest pair"  # with three pairs a bootstrap gives no more than that
OURS = ("homotopy", "homotopy_cosine", "homotopy_exponential")
RIVALS = {
    "Adam, constant": ("adam",),
    "Adam, constant or cosine": ("adam", "adam_cosine"),
    "Adam, and under the decay of homotopy_exponential too": (
        "adam",
        "adam_cosine",
        "adam_exponential",
    ),
}
Seeds = Mapping[str, float]


def document(folder: Path) -> str:
    """All sections whose CSV is there, as Markdown."""
    parts = ["# Results", "", "Made by `python -m tests.benchmarks.experiments table`.", ""]
    for name, section in SECTIONS.items():
        path = folder / f"{name}.csv"
        if path.exists():
            with open(path, encoding="utf-8") as file:
                parts += [*section(list(csv.DictReader(file))), ""]
    return "\n".join(parts).rstrip() + "\n"


def convex(rows: Sequence[Row]) -> list[str]:
    """Each problem: the best rate of each tuned arm, against the arms without a choice."""
    problem = ("data.noise", "model.condition", "model.rotated")
    found = cells(rows, (*problem, "profile", "optimizer.lr"), "val_loss")
    first = statistics.median(float(row["first_loss"]) for row in rows)
    arms = list(dict.fromkeys(key[3] for key in found))
    lines = ["## Convex: loss after 1,000 steps, medians over seeds", ""]
    lines += [_head(["noise", "condition", "rotated", *arms]), _rule(3 + len(arms))]
    won: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for noise, condition, rotated in sorted({key[:3] for key in found}, key=_problem_order):
        best: dict[str, tuple[float, str]] = {}
        for key, values in found.items():
            if key[:3] == (noise, condition, rotated):
                here = (abs(median(values)), key[4])
                best[key[3]] = min(best.get(key[3], (np.inf, "")), here)
        told = [f"{v:.1e}" + (f" ({rate})" if rate else "") for v, rate in best.values()]
        lines.append(_line([noise, condition, rotated, *told]))
        for rival, names in RIVALS.items():
            theirs = min((v for arm, (v, _) in best.items() if arm in names), default=np.inf)
            for arm in (*OURS, "the best of them"):
                mine = [
                    v for name, (v, _) in best.items() if name in (OURS if " " in arm else [arm])
                ]
                ours = min(mine, default=np.inf)
                won[rival, arm, noise][0] += ours <= 2 * theirs or max(ours, theirs) < ZERO * first
                won[rival, arm, noise][1] += 1
    noises = sorted({noise for *_, noise in won}, key=float)
    lines += ["", "Problems on which an arm's loss is at most twice that of the best rate of", ""]
    lines += [_head(["rival", "arm", *(f"noise {noise}" for noise in noises)]), _rule(4)]
    for rival, arm in dict.fromkeys(key[:2] for key in won):
        counts = [f"{a} of {b}" for a, b in (won[rival, arm, noise] for noise in noises)]
        lines.append(_line([rival, arm, *counts]))
    return lines


def _problem_order(key: tuple[str, str, str]) -> tuple[float, float, str]:
    return float(key[0]), float(key[1]), key[2]


def char_gpt(rows: Sequence[Row]) -> list[str]:
    """Arms with a rate against the arms that choose their own."""
    tuned = [row for row in rows if row.get("optimizer.lr")]
    free = [row for row in rows if not row.get("optimizer.lr")]
    lines = ["## Character GPT, 2,000 steps: held-out loss", ""]
    lines += _rates(tuned)
    found = cells(tuned, ("profile", "optimizer.lr"), "val_loss")
    alone = [key for key in found if not key[0].startswith(("guard", "placebo"))]
    best = min(alone, key=lambda key: median(found[key]))
    lines += ["", f"Best without a ceiling: {best[0]} at {best[1]}, {median(found[best]):.4f}.", ""]
    lines += [_head(["no rate given", "median", "range", "behind the best, paired", BETWEEN])]
    lines += [_rule(5)]
    for (arm,), values in cells(free, ("profile",), "val_loss").items():
        middle, low, high, n = paired(values, found[best])
        scale = 100 / median(found[best])
        span = f"{min(values.values()):.4f} to {max(values.values()):.4f}"
        behind = f"{scale * middle:+.1f} % ({n} seeds)"
        between = f"{scale * low:+.1f} to {scale * high:+.1f} %"
        lines.append(_line([arm, f"{median(values):.4f}", span, behind, between]))
    first = statistics.median(float(row["first_loss"]) for row in rows)
    whatever = {arm: values for (arm,), values in cells(free, ("profile",), "val_loss").items()}
    lines += ["", *_sensitivities(found, first, reference="warmup10", whatever=whatever)]
    return [*lines, "", *_spikes(rows)]


def _spikes(rows: Sequence[Row]) -> list[str]:
    """Perplexity at each arm's best rate, and the loss spikes of all its runs."""
    found = cells(rows, ("profile", "optimizer.lr"), "val_metric")
    spikes = cells(rows, ("profile", "optimizer.lr"), "spikes")
    columns = ("arm", "best rate", "perplexity there", "spikes there", "at all its rates, in runs")
    lines = [_head(columns), _rule(len(columns))]
    for arm in dict.fromkeys(key[0] for key in found):
        mine = {lr: v for (a, lr), v in found.items() if a == arm}
        rate = min(mine, key=lambda lr: median(mine[lr]))
        here = f"{sum(spikes[arm, rate].values()):.0f}"
        counts = [n for (a, _), v in spikes.items() if a == arm for n in v.values()]
        told = _range(mine[rate], lambda v: f"{v:.2f}")
        lines.append(_line([arm, rate, told, here, f"{sum(counts):.0f} in {len(counts)}"]))
    return lines


def basin(rows: Sequence[Row], title: str) -> list[str]:
    """Sensitivity to the rate, arm by arm."""
    found = cells(rows, ("profile", "optimizer.lr"), "val_loss")
    first = statistics.median(float(row["first_loss"]) for row in rows)
    reference = "warmup10" if any(arm == "warmup10" for arm, _ in found) else next(iter(found))[0]
    lines = [f"## {title}", "", *_rates(rows)]
    if all(arm == reference for arm, _ in found):
        return lines
    rated = {key: values for key, values in found.items() if key[1]}
    free = {arm: values for (arm, lr), values in found.items() if not lr}
    told = _sensitivities(rated, first, reference, whatever=free)
    return [*lines, "", *told, "", *_spikes(rows)]


def _sensitivities(
    found: Mapping[tuple[str, str], Seeds],
    first: float,
    reference: str,
    *,
    whatever: Mapping[str, Seeds] | None = None,
) -> list[str]:
    """Each arm beside the reference, over the rates that both were run at.

    Args:
        found: (arm, rate) -> seeds.
        first: The loss before training, which a run that diverged counts with.
        reference: An arm.
        whatever: Arms that take no rate, and end alike whatever one asks for.
    """
    lowest = min(median(values) for values in found.values())
    rates = {arm: {lr for a, lr in found if a == arm} for arm, _ in found}
    lines = ["Sensitivity to the rate, over the rates that both arms were run at:", ""]
    lines += [_head(["arm", "rates", "its own", f"{reference}'s", "ratio", "difference, paired"])]
    lines.append(_rule(6))
    for arm in [*rates, *(whatever or {})]:
        shared = sorted(rates[reference] & rates.get(arm, rates[reference]), key=float)
        if arm == reference or len(shared) < 3:
            continue
        base = sensitivity({lr: found[reference, lr] for lr in shared}, lowest, first)
        mine = {lr: found[arm, lr] if arm in rates else whatever[arm] for lr in shared}
        values = sensitivity(mine, lowest, first)
        middle, low, high, n = paired(values, base)
        told = f"{middle:+.3f}, 1 pair"
        if n > 1:
            told = f"{middle:+.3f} [{low:+.3f}, {high:+.3f}], {n} pairs"
        ratio = f"{median(values) / median(base):.2f}"
        numbers = [f"{median(values):.3f}", f"{median(base):.3f}", ratio, told]
        lines.append(_line([arm, f"{shared[0]} to {shared[-1]} ({len(shared)})", *numbers]))
    return lines


def cifar10(rows: Sequence[Row], title: str = "CIFAR-10: held-out accuracy, %") -> list[str]:
    """Accuracy by rate, the spread of the late training loss, and robustness."""
    lines = [f"## {title}", ""]
    lines += _rates(rows, "val_metric", lambda v: f"{100 * v:.1f}")
    found = cells(rows, ("profile", "optimizer.lr"), "val_metric")
    best = max(found, key=lambda key: median(found[key]))
    variance = cells(rows, ("profile", "optimizer.lr"), "late_variance")
    where = f"{best[0]} at {best[1]}" if best[1] else best[0]
    lines += ["", f"Best: {where}, {100 * median(found[best]):.1f} %.", ""]
    columns = ("arm", "best rate", "points against the best, paired", BETWEEN)
    columns += ("points lost over rates", "late variance of the loss")
    curves = any(row.get("metric_by_step") for row in rows)
    columns += (f"steps to {TARGET:.0%}",) * curves
    lines += [_head(columns), _rule(len(columns))]
    for arm in dict.fromkeys(key[0] for key in found):
        mine = {lr: v for (a, lr), v in found.items() if a == arm}
        rate = max(mine, key=lambda lr: median(mine[lr]))
        middle, low, high, _ = paired(mine[rate], found[best])
        lost = statistics.fmean(median(found[best]) - median(v) for v in mine.values())
        told = f"{100 * lost:.1f}" if len(mine) > 1 else ""
        spread = f"{median(variance[arm, rate]):.4f}"
        interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
        words = [arm, rate, f"{100 * middle:+.1f}", interval, told, spread]
        if curves:
            words.append(_reached(rows, arm, rate))
        lines.append(_line(words))
    return lines


def _reached(rows: Iterable[Row], arm: str, rate: str) -> str:
    """Steps to the target accuracy, seed by seed, at the resolution of the evaluations."""
    mine = [row for row in rows if (row["profile"], row.get("optimizer.lr", "")) == (arm, rate)]
    return ", ".join(str(steps_to(row, TARGET) or "never") for row in mine)


def depth(rows: Sequence[Row]) -> list[str]:
    """Sensitivity of both arms at each depth, and the slope of the benefit."""
    lines = ["## Depth: held-out loss", ""]
    tuned = [row for row in rows if row.get("optimizer.lr")]
    found = cells(tuned, ("model.layers", "profile", "optimizer.lr"), "val_loss")
    first = statistics.median(float(row["first_loss"]) for row in rows)
    free = cells([r for r in rows if r not in tuned], ("model.layers", "profile"), "val_loss")
    rates = sorted({lr for *_, lr in found}, key=float)
    lines += [_head(["layers", "arm", *rates, "sensitivity"]), _rule(3 + len(rates))]
    benefit: dict[str, dict[str, float]] = {}
    gap: dict[str, dict[str, float]] = {}
    for layers in sorted({key[0] for key in found}, key=int):
        lowest = min(median(v) for key, v in found.items() if key[0] == layers)
        both: dict[str, dict[str, float]] = {}
        for arm in ("cosine", "guard"):
            mine = {lr: found[layers, arm, lr] for lr in rates if (layers, arm, lr) in found}
            if set(mine) != set(rates):  # not measured at every rate
                continue
            both[arm] = sensitivity(mine, lowest, first)
            told = [_range(mine[lr]) if lr in mine else "" for lr in rates]
            lines.append(_line([layers, arm, *told, f"{median(both[arm]):.3f}"]))
        for (depth_, arm), values in free.items():
            if depth_ == layers:
                lines.append(_line([layers, f"{arm}: {_range(values)}", *[""] * (1 + len(rates))]))
        if len(both) == 2:
            shared = both["cosine"].keys() & both["guard"].keys()
            benefit[layers] = {s: both["cosine"][s] - both["guard"][s] for s in sorted(shared)}
            top = [
                min((found[layers, arm, lr] for lr in rates), key=median)
                for arm in ("cosine", "guard")
            ]
            gap[layers] = {s: top[0][s] - top[1][s] for s in sorted(shared)}
    lines += _benefit("Benefit of the guard (sensitivity of cosine less its own)", benefit)
    lines += _benefit("At the best rate of each (loss of cosine less that of the guard)", gap)
    return lines


def _benefit(words: str, values: Mapping[str, Seeds]) -> list[str]:
    """Medians by depth, and the slope."""
    if len(values) < 2:
        return []
    slope, low, high = _slope(values)
    told = ", ".join(f"{d} layers {median(v):+.3f}" for d, v in values.items())
    return ["", f"{words}: {told}; slope {slope:+.4f} per doubling [{low:+.4f}, {high:+.4f}]."]


def _slope(benefit: Mapping[str, Seeds]) -> tuple[float, float, float]:
    """Least-squares slope against log2 depth, bootstrap over seeds."""
    seeds = sorted(set.intersection(*(set(v) for v in benefit.values())))
    x = np.log2([float(d) for d in benefit])
    y = np.array([[v[s] for s in seeds] for v in benefit.values()])  # (depths, seeds)
    centred = x - x.mean()
    generator = np.random.default_rng(0)
    picks = generator.integers(0, len(seeds), (DRAWS, len(seeds)))
    slopes = centred @ y / (centred @ centred)  # one for each seed
    low, high = np.percentile(slopes[picks].mean(axis=1), [2.5, 97.5])
    return float(slopes.mean()), float(low), float(high)


def overhead(rows: Sequence[Row]) -> list[str]:
    """A probe's cost by signal, and what that makes at fixed periods."""
    periods = (1, 10, 50)
    lines = ["## Overhead: one probe by signal, without a budget", ""]
    columns = ["signal", "gradients a probe", "plain steps a probe, medians over seeds"]
    lines += [_head([*columns, *(f"every {n}" for n in periods)]), _rule(3 + len(periods))]
    gradients = cells(rows, ("profile",), "probe_gradients")
    for (arm,), values in cells(rows, ("profile",), "probe_steps").items():
        told = [f"{100 * median(values) / n:.1f} %" for n in periods]
        cost = f"{median(gradients[arm,]):.2f}"
        lines.append(_line([arm, cost, _range(values, lambda v: f"{v:.2f}"), *told]))
    return lines


def _rates(
    rows: Sequence[Row],
    column: str = "val_loss",
    form: Callable[[float], str] = lambda v: f"{v:.3f}",
) -> list[str]:
    """A table: arms down, rates across, median and range of each cell."""
    found = cells(rows, ("profile", "optimizer.lr"), column)
    rates = sorted({lr for _, lr in found}, key=lambda lr: float(lr) if lr else -1.0)
    lines = [_head(["arm", *(lr or "no rate" for lr in rates)]), _rule(1 + len(rates))]
    for arm in dict.fromkeys(key[0] for key in found):
        told = [_range(found[arm, lr], form) if (arm, lr) in found else "" for lr in rates]
        lines.append(_line([arm, *told]))
    return lines


def _range(values: Seeds, form: Callable[[float], str] = lambda v: f"{v:.3f}") -> str:
    low, high = min(values.values()), max(values.values())
    spread = f" ({form(low)} to {form(high)})" if len(values) > 1 else " (1 seed)"
    return form(median(values)) + spread


def _line(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"


_head = _line


def _rule(n: int) -> str:
    return "|" + "---|" * n


BASINS = {
    "char_gpt_basin": "Character GPT, 300 steps: the basin",
    "char_gpt_post": "Character GPT with post-LN, 1,000 steps",
    "char_gpt_qk": "Character GPT with normed queries and keys, 2,000 steps",
    "char_gpt_gpu": "Character GPT on a GPU, 2,000 steps",
    "bpe_gpu": "GPT over 4,096 BPE tokens on a GPU, 1,000 steps",
    "spikes": "Spikes: a small GPT under SGD with momentum, 400 steps",
    "muon": "Muon with AdamW under the trust ratio, 1,000 steps",
    "lion": "Lion under the trust ratio, 1,000 steps",
}
SECTIONS: dict[str, Callable[[Sequence[Row]], list[str]]] = {
    "convex": convex,
    "char_gpt": char_gpt,
    **{name: partial(basin, title=title) for name, title in BASINS.items()},
    "cifar10": cifar10,
    "cifar10_gpu": partial(cifar10, title="CIFAR-10, ResNet-20: held-out accuracy, %"),
    "depth": depth,
    "overhead": overhead,
}
