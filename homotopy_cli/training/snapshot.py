"""What an evaluation shows beside its loss: the spectrum, attention, norms and the output.

Taken on a slice of the held-out data, in eval mode; nothing of the run changes. Components cost
one forward pass of the slice. The spectral density costs STEPS products on it and is taken
three times a run: before the first step, half way, and at the end.
"""

from collections.abc import Sequence
from typing import Any

from homotopy_cli.curvature.components import measure_components
from homotopy_cli.curvature.components_columns import component_columns, component_layers
from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.errors import MEASUREMENT_ERRORS
from homotopy_cli.problems.nest import n_rows, split_rows
from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.reducer import LOCAL, Reducer
from homotopy_cli.records import ProbeRecord

SHARE = 8  # one row in SHARE of a held-out batch; our choice: about 3 gradients a spectrum
STEPS = 12  # Lanczos steps of the density; with one start vector


def spectrum_due(done: int, total: int, every: int) -> bool:
    """Whether the evaluation after `done` of `total` steps, one in `every`, has a spectrum."""
    return done in (0, total) or done - every < total / 2 <= done


def take_snapshot(
    model: Any,
    loss: Any,
    batch: Any,
    *,
    step: int,
    spectrum: bool,
    seed: int,
    layers: Sequence[Sequence[str]] = (),
    reducer: Reducer = LOCAL,
) -> tuple[ProbeRecord | None, str]:
    """Measure; returns the row for the log, or None and why in words.

    `layers` are the parameter names of each row of the log's layer axis; without them the
    components have no per-layer columns.
    With a reducer `batch` is this rank's part, and what is measured is that of all ranks' parts.
    """
    rows = max(1, n_rows(batch) // SHARE)
    try:
        problem = Problem.from_module(
            model, loss, [split_rows(batch, rows)[0]], mode="eval", seed=seed, reducer=reducer
        )
        components = measure_components(problem, heads=False)
        values = component_columns(components)
        by_layer = component_layers(components, layers)
        density = None
        if spectrum:
            config = EstimatorConfig.cheap(
                whole=False, density=True, density_probes=1, density_steps=STEPS, seed=seed
            )
            density = CurvatureEstimator(config=config).estimate(problem).density
    except MEASUREMENT_ERRORS as error:
        return None, str(error)
    found = None if density is None else (density.nodes, density.weights)
    if not values and found is None:
        return None, ""
    return ProbeRecord(step, values, by_layer, spectrum=found), ""
