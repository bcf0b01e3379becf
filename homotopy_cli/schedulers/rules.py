"""The control law, as pure functions of floats: no torch, no state, no clock.

Curvature sets a *ceiling* on the learning rate, a schedule sets the rest. The quantity that
steers is the edge ratio ρ = ηλ/c (dimensionless): λ is the largest Hessian eigenvalue in the
optimizer's own metric and c the value of ηλ at which that optimizer starts to diverge on a
quadratic (thresholds.py). With α = 1 the κ law's formula applied to ρ/target *is* that
ceiling: η = min(schedule, target·c/λ).

    attack   a lower limit applies at once           released(limit, goal < limit, ·) = goal
    release  a higher one by at most `rate` a step   released(limit, goal > limit, rate)
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median


def homotopy_scale(ratio: float, alpha: float = 1.0) -> float:
    """The factor 1/(1 + α·max(0, ratio - 1)) in (0, 1].

    At α = 1 and ratio >= 1 it is exactly 1/ratio: the learning rate lands on the limit.

    Args:
        ratio: Curvature over its target, dimensionless; below 1 nothing happens.
        alpha: Strength, >= 0; 0 switches the law off, ∞ is not allowed.

    Raises:
        ValueError: ratio is NaN. NaN must be caught before: `max(0, nan)` is 0 in Python, so
            a formula that lets it through fails open, to the full learning rate.
    """
    if math.isnan(ratio):
        raise ValueError("ratio is NaN: a failed probe must keep the last ceiling")
    return 1.0 / (1.0 + alpha * max(0.0, ratio - 1.0))


def lr_ceiling(curvature: float, threshold: float, target: float = 1.0) -> float:
    """The learning rate at which the edge ratio is `target`: target·c/λ; ∞ where λ <= 0.

    Args:
        curvature: λ_max in the optimizer's metric, 1/lr. Signed: a negative one has no edge.
        threshold: c, dimensionless.
        target: Edge ratio to stay under, dimensionless.
    """
    return target * threshold / curvature if curvature > 0.0 else math.inf


def edge_ratio(lr: float, curvature: float, threshold: float) -> float:
    """ρ = ηλ/c: 1 is the onset of divergence on a quadratic. Negative where λ is."""
    return lr * curvature / threshold


def released(limit: float, goal: float, rate: float) -> float:
    """One step of the limit towards `goal`: down at once, up by at most the factor `rate`."""
    return goal if goal <= limit else min(goal, limit * rate)


def log_average(previous: float | None, new: float, keep: float) -> float | None:
    """Exponential average of a positive quantity in log space; `keep` is the old value's share.

    Curvature spans decades, so a linear average would be ruled by one outlier. A value <= 0
    (no edge) counts as a thousandth of the average: evidence of "much less", not of -∞.
    None while nothing positive was seen.
    """
    if previous is None:
        return new if new > 0.0 else None
    seen = new if new > 0.0 else 1e-3 * previous
    return math.exp(keep * math.log(previous) + (1.0 - keep) * math.log(seen))


def log_change(before: float | None, now: float | None) -> float:
    """|Δlog λ|; ∞ where one of them is missing or not positive."""
    if before is None or now is None or before <= 0.0 or now <= 0.0:
        return math.inf
    return abs(math.log(now / before))


def curvature_in_force(new: float, average: float | None) -> float:
    """What the ceiling uses: max(new, average), so a rise acts at once and a dip does not."""
    return new if average is None else max(new, average)


def next_period(
    period: int, *, base: int, longest: int, log_change: float, load: float, alarm: bool = False
) -> int:
    """Steps until the next probe: rarer while nothing moves, denser near the edge.

    Doubles while |Δlog λ| < 0.1 and load < 0.5, up to `longest`; is quartered above
    load 0.8 or on an alarm; otherwise goes back towards `base`.

    Args:
        period: Steps since the last probe was planned, >= 1.
        base: `estimation_freq`.
        longest: Upper end, steps.
        log_change: |Δlog λ| between the last two probes.
        load: Edge ratio over its target, for the learning rate now in use.
        alarm: A free alarm (loss or gradient norm out of its range) fired.

    The numbers are our choice.
    """
    if alarm or load > 0.8:
        return max(1, period // 4)
    if log_change < 0.1 and load < 0.5:
        return min(longest, 2 * period)
    return min(base, max(1, 2 * period)) if period < base else base


def log_percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile (0..100) of positive values, interpolated in log space.

    Raises:
        ValueError: No value, or one that is not positive and finite.
    """
    if not values or any(not (0.0 < v < math.inf) for v in values):
        raise ValueError("log_percentile needs at least one value, all positive and finite")
    logs = sorted(math.log(v) for v in values)
    position = (len(logs) - 1) * q / 100.0
    low = math.floor(position)
    high = min(low + 1, len(logs) - 1)
    return math.exp(logs[low] + (position - low) * (logs[high] - logs[low]))


def is_outlier(value: float, history: Sequence[float], width: float = 4.0) -> bool:
    """Whether log(value) is above the history's median by more than `width` robust deviations.

    1.4826·MAD estimates a normal's standard deviation; it is floored at 0.1 (10 % of the
    value) so that a quiet history does not make every change an outlier.
    """
    logs = [math.log(v) for v in history if v > 0.0]
    if len(logs) < 5 or value <= 0.0:
        return False
    middle = median(logs)
    spread = max(0.1, 1.4826 * median(abs(x - middle) for x in logs))
    return math.log(value) - middle > width * spread


def learned_target(target: float, percentile: float, rate: float) -> float:
    """Move a learned target towards a percentile of recent history by at most `rate`, in log.

    A target that follows its own signal freely never limits anything; the bound on each
    move (adaptation_rate 0.01: 1 % per probe) is what keeps it a reference.
    """
    step = math.log(percentile / target)
    return target * math.exp(max(-rate, min(rate, step)))


def layer_multipliers(
    curvatures: Mapping[str, float],
    *,
    power: float = 0.5,
    low: float = 0.25,
    high: float = 4.0,
) -> dict[str, float]:
    """Learning-rate factor per layer: clip((median λ/λ_b)^power, low, high), dimensionless.

    The median layer keeps the base learning rate exactly. A layer without positive curvature
    (unused, linear in θ) says nothing about its step size and gets 1.

    Source: the power 1/2 and the bounds are our choice after Wang et al. 2025
    (arXiv:2502.19002), who find fixed per-type factors within one decade useful.
    """
    positive = [v for v in curvatures.values() if v > 0.0 and math.isfinite(v)]
    if not positive:
        return dict.fromkeys(curvatures, 1.0)
    middle = median(positive)
    return {
        name: min(high, max(low, (middle / v) ** power)) if 0.0 < v < math.inf else 1.0
        for name, v in curvatures.items()
    }


def warmup_factor(
    factor: float,
    *,
    growth: float,
    ratio: float,
    rise_below: float = 0.25,
    cut_above: float = 0.7,
) -> float:
    """One step of a curvature-gated warmup, as a factor in (0, 1] of the target rate.

    Below `rise_below` the factor grows by `growth`; between the two it holds; above
    `cut_above` it falls at once to where the edge ratio would be the middle of the band.

    On a small GPT over 1200 steps, runs whose ratio stayed under 0.25 while the rate rose and
    under 0.7 ever after ended best, runs that passed 0.7 never recovered; the exact numbers
    are our choice.
    """
    if ratio > cut_above:
        return factor * 0.5 * (rise_below + cut_above) / ratio
    return min(1.0, factor * growth) if ratio < rise_below else factor


def clip_limit(max_norm: float, curvature: float, reference: float = 1e4) -> float:
    """The limit of curvature-aware clipping: max_norm/(1 + curvature/reference).

    A negative curvature and NaN, as before the first probe, count as 0.
    """
    return max_norm / (1.0 + (curvature if curvature > 0.0 else 0.0) / reference)
