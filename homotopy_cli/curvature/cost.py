"""What an estimate took, in gradients: counted while training, products timed otherwise."""

import time

from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.records import HvpCost

GRAPH_COST, HVP_COST = 1.0, 2.0  # in gradients: FLOPs 3.00 up to the first product, then 2.00


def cost_of(graph: GradientGraph, config: EstimatorConfig, started: float) -> HvpCost:
    """Return the cost of an estimate that began at perf_counter() = `started`.

    A thorough estimate's products are timed (see `meter`) and set against the fastest of at
    least 3 gradients timed after them; the graph and every finite step add a gradient each.
    The Lanczos vectors' own algebra and the first call's setting up are in `seconds` only. Clocks
    err, so the figure is never below one gradient for a whole product, a block's by its share.
    An estimate of few fixed steps counts: 1 for the graph and 2 for each product.

    Over several ranks times add up, and the seconds are those of the slowest, on every rank.
    """
    meter = graph.meter
    seconds = time.perf_counter() - started
    if config.steps is not None:
        seconds = max(graph.reducer.together(lambda: seconds))
        basis, spent = "counted", GRAPH_COST + HVP_COST * meter.n_whole
    else:
        told = graph.reducer.together(lambda: (seconds, meter.seconds(), graph.time_gradient()))
        walls, products, gradients = zip(*told, strict=True)
        seconds, basis = max(walls), meter.basis
        in_gradients = sum(products) / max(sum(gradients), 1e-9)
        spent = meter.n_gradients + max(in_gradients, meter.n_whole)
    return HvpCost(
        method=graph.method,
        fallback_reason=graph.fallback_reason,
        n_hvp=meter.n_products,
        gradient_equivalents=spent,
        seconds=seconds,
        n_hvp_weighted=meter.n_whole,
        basis=basis,
    )
