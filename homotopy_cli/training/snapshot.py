"""What an evaluation shows beside its loss: the spectrum, attention, norms and the output.

Taken on a slice of the held-out data, in eval mode; nothing of the run changes. Components cost
one forward pass of the slice. The spectral density costs STEPS products on it and is taken
three times a run: before the first step, half way, and at the end.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from homotopy_cli.curvature.components import measure_components
from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.errors import HomotopyError
from homotopy_cli.problems.nest import n_rows, split_rows
from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.reducer import LOCAL, Reducer
from homotopy_cli.records import Components, ProbeRecord

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
    reducer: Reducer = LOCAL,
) -> tuple[ProbeRecord | None, str]:
    """Measure; returns the row for the log, or None and why in words.

    With a reducer `batch` is this rank's part, and what is measured is that of all ranks' parts.
    """
    rows = max(1, n_rows(batch) // SHARE)
    try:
        problem = Problem.from_module(
            model, loss, [split_rows(batch, rows)[0]], mode="eval", seed=seed, reducer=reducer
        )
        values = component_columns(measure_components(problem, heads=False))
        density = None
        if spectrum:
            config = EstimatorConfig.cheap(
                whole=False, density=True, density_probes=1, density_steps=STEPS, seed=seed
            )
            density = CurvatureEstimator(config=config).estimate(problem).density
    except (HomotopyError, RuntimeError, ValueError, ArithmeticError) as error:
        return None, str(error)
    found = None if density is None else (density.nodes, density.weights)
    if not values and found is None:
        return None, ""
    return ProbeRecord(step, values, spectrum=found), ""


def component_columns(components: Components) -> Mapping[str, float]:
    """The whole model's component columns of the log; what is not there is left out."""
    columns: dict[str, float] = {}
    if components.attention:
        columns["attention_max_logit"] = max(a.max_logit for a in components.attention)
        columns["attention_entropy"] = min(a.entropy for a in components.attention)
    if components.norm:
        columns["norm_sigma_min"] = min(n.sigma_min for n in components.norm)
        columns["norm_eps_over_var"] = max(n.eps_over_var for n in components.norm)
    if components.cross_entropy is not None:
        output = components.cross_entropy
        columns |= {
            "p_min": output.p_min,
            "p_q001": output.p_q001,
            "log_z_mean": output.log_z_mean,
        }
    return {k: float(np.float64(v)) for k, v in columns.items() if math.isfinite(v)}
