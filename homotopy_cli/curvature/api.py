"""The whole core in one call."""

from typing import Any, Literal

from torch import Tensor

from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.curvature.exact import require_small
from homotopy_cli.curvature.validate import validate as _validate
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem
from homotopy_cli.records import CurvatureEstimate, Validation


def probe(
    problem: Problem,
    partition: Partition | Literal["module"] | None = "module",
    *,
    preconditioner: Tensor | None = None,
    **config: Any,
) -> CurvatureEstimate:
    """Measure a Problem thoroughly.

    Args:
        problem: Parameters, loss and fixed batches.
        partition: Blocks of the per-layer table; "module" for `Partition.by_module(problem)`,
            None for no table, as in `CurvatureEstimator.estimate`.
        preconditioner: Diagonal P > 0 of the optimizer, shape (n,), for λ_max(P⁻¹H).
        config: Changes to `EstimatorConfig.thorough()`.

    Returns:
        CurvatureEstimate. Slow convergence is said in it, never raised.

    Raises:
        NonFiniteError: Loss, gradient or a product holds NaN or infinity.
        ProblemError: The problem cannot be measured so.
        TypeError: `partition` is none of these, or `config` names no setting.
    """
    estimator = CurvatureEstimator(config=EstimatorConfig.thorough(**config))
    blocks = Partition.by_module(problem) if partition == "module" else partition
    return estimator.estimate(problem, blocks, preconditioner=preconditioner)


def validate(problem: Problem, *, limit: int = 5000, **config: Any) -> list[Validation]:
    """Estimate a small Problem and compare every number with the full Hessian's.

    Costs a thorough estimate with its per-layer table, n products for the rows of the full
    Hessian, 8n² bytes for each copy of it, and O(n³) for its eigenvalues.

    Args:
        problem: At most `limit` parameters.
        limit: Refuse above it, before anything is measured.
        config: Changes to `EstimatorConfig.thorough()`.

    Returns:
        One row for each quantity: estimate, exact value, relative error, the estimate's own
        bound, and whether the exact value lies within it.

    Raises:
        NonFiniteError: Loss, gradient or a product holds NaN or infinity.
        ProblemError: More than `limit` parameters, or the problem cannot be measured so.
    """
    require_small(problem, limit)
    partition = Partition.by_module(problem)
    return _validate(problem, probe(problem, partition, **config), partition, limit=limit)
