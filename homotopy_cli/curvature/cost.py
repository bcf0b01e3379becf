"""What an estimate took: counted while training, timed against one gradient otherwise."""

import time

from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.records import HvpCost

GRAPH_COST, HVP_COST = 1.0, 2.0  # in gradients: FLOPs 3.00 up to the first product, then 2.00


def cost_of(graph: GradientGraph, config: EstimatorConfig, started: float) -> HvpCost:
    """Return the cost of an estimate that began at perf_counter() = `started`.

    Over several ranks the seconds are those of the slowest, on every rank.
    """
    counted = config.steps is not None
    clocks = graph.reducer.together(
        lambda: (time.perf_counter() - started, 0.0 if counted else graph.time_gradient())
    )
    seconds, gradient = (max(values) for values in zip(*clocks, strict=True))
    return HvpCost(
        method=graph.method,
        fallback_reason=graph.fallback_reason,
        n_hvp=graph.n_hvp,
        gradient_equivalents=GRAPH_COST + HVP_COST * graph.n_hvp
        if counted
        else seconds / max(gradient, 1e-9),
        seconds=seconds,
    )
