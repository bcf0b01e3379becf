"""This library's answers to the five questions."""

from typing import Any

import numpy as np

from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.problems.partition import Block, Partition
from homotopy_cli.problems.problem import Problem
from homotopy_cli.records import CurvatureEstimate
from tests.benchmarks.models import Case, criterion
from tests.benchmarks.questions import Answer, Contender

OFF: dict[str, Any] = {"blocks": False, "trace": False, "frobenius": False, "checks": False}
TOP: dict[str, Any] = {**OFF, "top_k": 1, "ends": "max", "explicit_residual": False}


def lambda_max(case: Case, seed: int) -> Answer:
    """λ_max, stopped by its residual."""
    found = _estimate(case, None, seed, **TOP)
    return _of_pairs(found, found.eigenvalues[:1])


def lambda_max_mixed(case: Case, seed: int) -> Answer:
    """The same with cheap products to find the vector and exact ones to certify it."""
    found = _estimate(case, None, seed, **{**TOP, "mixed": True})
    note = "refused at kinks, exact instead" if found.warnings else ""
    return _of_pairs(found, found.eigenvalues[:1], note)


def top_ten(case: Case, seed: int) -> Answer:
    """The ten largest eigenvalues, each stopped by its residual."""
    found = _estimate(case, None, seed, **{**TOP, "top_k": 10})
    return _of_pairs(found, found.eigenvalues)


def trace(case: Case, seed: int) -> Answer:
    """tr H until two standard errors are below 2 %, from Ritz pairs and random signs."""
    settings = {**TOP, "top_k": 10, "rtol": 0.1, "trace": True}
    found = _estimate(case, None, seed, trace_rtol=0.02, max_probes=1000, **(settings | _TRACE))
    stated = 2.0 * found.trace.stderr
    reached = stated <= 0.02 * abs(found.trace.value)
    return Answer((found.trace.value,), found.cost.n_hvp, (stated,), certified=reached)


_TRACE: dict[str, Any] = {"trace": True}


def density(case: Case, seed: int) -> Answer:
    """Nodes and weights by quadrature, the outliers counted one by one."""
    found = _estimate(
        case, None, seed, **{**TOP, "ends": "both", "top_k": 10, "density": True, "rtol": 1e-2}
    )
    drawn = found.density
    return Answer(
        (),
        found.cost.n_hvp,
        nodes=np.asarray(drawn.nodes),
        weights=np.asarray(drawn.weights),
        certified=True,
    )


def layers(case: Case, seed: int) -> Answer:
    """λ_max of each layer's block, on one shared graph."""
    blocks = tuple(Block(name, "parameter", (name,)) for name in case.layers)
    settings = {**TOP, "blocks": True, "whole": False}
    found = _estimate(case, Partition(blocks), seed, **settings)
    return Answer(
        tuple(b.lambda_max for b in found.blocks),
        float(sum(b.n_hvp for b in found.blocks)),
        tuple(b.residual for b in found.blocks),
        certified=all(b.converged for b in found.blocks),
    )


CONTENDERS = (
    Contender("ours", "lambda_max", lambda_max),
    Contender("ours, mixed", "lambda_max", lambda_max_mixed),
    Contender("ours", "top 10", top_ten),
    Contender("ours", "trace", trace),
    Contender("ours", "density", density),
    Contender("ours", "layers", layers),
)


def _estimate(
    case: Case, partition: Partition | None, seed: int, **settings: Any
) -> CurvatureEstimate:
    problem = Problem.from_module(
        case.model, lambda model, batch: criterion(model(batch[0]), batch[1]), [case.batch]
    )
    estimator = CurvatureEstimator(config=EstimatorConfig.thorough(seed=seed, **settings))
    return estimator.estimate(problem, partition)


def _of_pairs(found: CurvatureEstimate, pairs: Any, note: str = "") -> Answer:
    return Answer(
        tuple(e.value for e in pairs),
        found.cost.n_hvp,
        tuple(e.residual for e in pairs),
        certified=all(e.converged for e in pairs),
        note=note,
    )
