"""The full Hessian of a small problem, row by row; the yardstick of `probe --validate`."""

import torch
from torch import Tensor

from homotopy_cli.curvature.ggn import gradient_graph
from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.problem import Problem


def require_small(problem: Problem, limit: int) -> None:
    """Raise ProblemError above `limit` parameters; costs nothing, so ask before measuring."""
    n = problem.n_params
    if n > limit:
        raise ProblemError(
            f"the full Hessian of {n:,} parameters is above the limit of {limit:,} "
            f"({8 * n * n / 2**30:.1f} GiB, {n:,} products)",
            hint=f"raise it with --validate-limit {n} (limit={n} in Python), or take a smaller "
            "model",
        )


def full_hessian(problem: Problem, *, limit: int = 5000, curvature: str = "hessian") -> Tensor:
    """Return H, shape (n, n), float64 on the CPU, computed in the problem's dtype.

    One row is one product with a unit vector: n products, 8n² bytes.

    Args:
        problem: What to differentiate.
        limit: Refuse above this many parameters.
        curvature: "ggn" for the Gauss-Newton matrix instead.

    Raises:
        ProblemError: More than `limit` parameters.
    """
    require_small(problem, limit)
    n = problem.n_params
    hessian = torch.empty((n, n), dtype=torch.float64)
    with problem.measuring():
        graph = gradient_graph(problem, curvature)
        unit = torch.zeros(n, dtype=graph.dtype, device=graph.device)
        for i in range(n):
            unit[i] = 1.0
            hessian[i] = graph.hvp(unit).to("cpu", torch.float64)
            unit[i] = 0.0
    return hessian
