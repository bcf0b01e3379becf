"""The whole core in one call."""

from typing import Any

from torch import Tensor

from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.curvature.validate import validate as _validate
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem
from homotopy_cli.records import CurvatureEstimate, Validation


def probe(
    problem: Problem,
    partition: Partition | None = None,
    *,
    preconditioner: Tensor | None = None,
    **config: Any,
) -> CurvatureEstimate:
    """Measure a Problem thoroughly.

    Args:
        problem: Parameters, loss and fixed batches.
        partition: Blocks for the per-layer table; by module when None, Partition.none for none.
        preconditioner: Diagonal P of the optimizer, shape (n,).
        config: Changes to `EstimatorConfig.thorough()`.
    """
    if partition is None:
        partition = Partition.by_module(problem)
    estimator = CurvatureEstimator(config=EstimatorConfig.thorough(**config))
    return estimator.estimate(problem, partition, preconditioner=preconditioner)


def validate(problem: Problem, *, limit: int = 5000, **config: Any) -> list[Validation]:
    """Estimate a small Problem and compare every number with the full Hessian's.

    Args:
        problem: At most `limit` parameters.
        limit: Refuse above it.
        config: Changes to `EstimatorConfig.thorough()`.
    """
    partition = Partition.by_module(problem)
    return _validate(problem, probe(problem, partition, **config), partition, limit=limit)
