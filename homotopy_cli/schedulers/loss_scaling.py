"""A gradient that a GradScaler still holds scaled must not count in Adam's metric.

P counts the gradient in `.grad`, as the coming step will. Multiplied with 65536 it makes P too
large and λ(P⁻¹H) too small, by thousands in the first steps: the guard would fail open. Two lengths
tell. The slice's own gradient has the batch's mean and more noise, so that the batch's is seldom
longer at all; where one row of the batch has nearly all of its gradient and the slice is without
it, the optimizer's state still knows gradients of that size. A gradient that is BEYOND times as
long as both is left out, and P is that of the state alone.
"""

from collections.abc import Callable
from dataclasses import replace

from homotopy_cli.schedulers.metric import GuardMetric
from homotopy_cli.schedulers.probing import Measurement
from homotopy_cli.schedulers.ranks import all_ranks

BEYOND = 64.0  # a GradScaler starts at 65536; our choice


def unscaled(
    metric: GuardMetric,
    measure: Callable[[], Measurement],
    say: Callable[[str], None],
) -> Measurement:
    """`measure()`, taken again without `.grad` in the metric where that is scaled.

    Args:
        metric: That `measure` takes; remembers whether `.grad` counts.
        measure: One probe.
        say: Takes what is wrong, in words, each time it begins.

    Raises:
        ProblemError: As `measure`; at the first step there is then no metric yet.
    """
    found = measure()
    scaled = metric.adaptive and found.excess >= BEYOND
    if scaled:
        over_state = metric.excess_over_state()
        scaled = max(all_ranks().together(lambda: over_state)) >= BEYOND
    if scaled != metric.counts_gradient:
        return found
    metric.counts_gradient = not scaled
    if not scaled:
        return found
    say(
        f"the gradient in .grad is {found.excess:,.0f} times as long as the one that was measured, "
        "so Adam's metric leaves it out: under a GradScaler call scaler.unscale_(optimizer) "
        "before update_curvature"
    )
    again = measure()
    both = {
        name: found.values[name] + again.values[name]
        for name in ("gradient_equivalents", "probe_seconds")
    }
    return replace(
        again,
        values=again.values | both,
        cost=found.cost + again.cost,
        seconds=found.seconds + again.seconds,
    )
