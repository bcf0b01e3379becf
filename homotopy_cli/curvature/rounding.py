"""What rounding did to a float32 estimate: the same gradient and products, in float64.

A guess from eps cannot see a forward pass that cancels (the log-softmax of a well-fitted
classifier, a BatchNorm of inputs far from zero), and takes a constant in the loss for noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from homotopy_cli.curvature.ggn import gradient_graph
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.curvature.kappa import kappa
from homotopy_cli.curvature.moments import Moments, shown
from homotopy_cli.errors import HomotopyError
from homotopy_cli.linalg.extreme import EigenPair
from homotopy_cli.linalg.vectors import generator, norm, rademacher
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem
from homotopy_cli.records import BlockEstimate, CurvatureEstimate, Eigenvalue, Moment

SAME = 1e-3  # of loss and gradient that float64 may change where float32 resolves them
_SIGNS = 4  # products with random signs for the error of exact sums: our choice
_FLOOR = 2.0  # errors below which ‖g‖ leaves κ undefined: above, κ is known to a factor of 4
_MEMORY = 2**30  # bytes of a model in float64, frozen parts and all: our choice
_COST = 2  # gradients' time that one in float64 takes


@dataclass(frozen=True)
class Rounding:
    """Float32 less float64, at the same parameters on the same batches."""

    grad: Tensor  # (n,) error of g, float64
    residuals: tuple[float, ...] = ()  # ‖Hv - λv‖ in float64 of each pair; none where not taken
    sums: Tensor | None = None  # (_SIGNS, n) z∘(Ez) for random signs z, E = A - H

    def widened(self, pairs: Sequence[Eigenvalue]) -> list[Eigenvalue]:
        """The pairs, in the order they were measured in, with residuals of the true matrix."""
        known = (*self.residuals, *(0.0 for _ in pairs))[: len(pairs)]
        return [
            replace(pair, residual=max(pair.residual, residual))
            for pair, residual in zip(pairs, known, strict=True)
        ]


def float64_graph(graph: GradientGraph, method: str = "central_difference") -> GradientGraph | None:
    """The same gradient in float64, or None where the problem has no such form.

    A closure has none, nor a model that fixes a dtype inside, a device without float64, or a model
    that would take more than _MEMORY. A loss that draws random numbers may draw others in float64.

    Args:
        graph: In float32, on one rank.
        method: Of the products; with differences no graph is kept.
    """
    problem = graph.problem
    if graph.dtype == torch.float64 or problem.shards is not None or problem.reducer.size > 1:
        return None
    numbers = 0 if problem.model is None else sum(p.numel() for p in problem.model.parameters())
    if 8 * numbers > _MEMORY:
        return None
    try:
        kept = {"method": method, "keep_graph": graph.keep_graph}
        exact = gradient_graph(problem.in_float64(), graph.matrix, **kept)
        apart = norm(graph.grad.double() - exact.grad) > SAME * norm(exact.grad)
        return None if apart and draws_numbers(problem) else exact
    except (HomotopyError, RuntimeError, TypeError, ValueError):
        return None


def draws_numbers(problem: Problem) -> bool:
    """Whether the loss of the first batch draws from a torch generator; one forward pass."""
    with _Draws() as seen:
        problem.batch_loss(0)
    return seen.any


class _Draws(TorchDispatchMode):
    """Notes whether an operation is random."""

    any = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.any |= torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def measure(
    graph: GradientGraph, pairs: Sequence[EigenPair], moments: Moments | None, *, seed: int
) -> Rounding | None:
    """Take the gradient again in float64, and where sums are exact products too.

    The estimate's own graph is freed first: no product can follow. Costs _COST gradients; with
    `moments` of n exact products also one product in float64 for each pair and _SIGNS for the
    sums, timed with the others.

    Args:
        graph: Of the estimate, with H or G.
        pairs: With their vectors.
        moments: Of the estimate.
        seed: Of the random signs.

    Returns:
        None where there is no float64 form, see `float64_graph`.
    """
    matrix = None if moments is None else moments.matrix
    thorough = matrix is not None and not graph.method.endswith("_difference")
    graph.release()
    exact = float64_graph(graph, "auto" if thorough else "central_difference")
    if exact is None:
        return None
    graph.meter.n_gradients += _COST
    error = graph.grad.double() - exact.grad
    if not thorough or exact.method.endswith("_difference"):
        return Rounding(error)
    try:
        return _with_products(graph, exact, pairs, matrix, error, seed)
    except RuntimeError:  # no memory: the gradient's error stands
        return Rounding(error)


def _with_products(
    graph: GradientGraph,
    exact: GradientGraph,
    pairs: Sequence[EigenPair],
    matrix: Tensor,
    error: Tensor,
    seed: int,
) -> Rounding:
    """Residuals of the pairs, and the error matrix E times random signs."""

    def product(v: Tensor) -> Tensor:
        with graph.meter.product("float64"):
            return exact.hvp(v)

    residuals = []
    for pair in pairs:
        v = pair.vector.double()
        residuals.append(norm(product(v) - pair.value * v) / norm(v))
    draw = generator(seed)
    signs = [
        rademacher(graph.n, generator=draw, dtype=torch.float64, device=graph.device)
        for _ in range(_SIGNS)
    ]
    wrong = torch.stack([matrix @ z.cpu() - product(z).cpu() for z in signs])
    return Rounding(error, tuple(residuals), torch.stack(signs).cpu() * wrong)


def with_errors(
    estimate: CurvatureEstimate, rounding: Rounding, graph: GradientGraph, partition: Partition
) -> CurvatureEstimate:
    """The estimate with measured errors of ‖g‖, κ, ‖H‖_F and traces, layers included."""
    error = _grad_error(rounding.grad, estimate)
    value, reason = kappa(estimate.hessian_norm, estimate.grad_norm, _FLOOR * error)
    params = {} if partition is None else {b.name: b.params for b in partition.blocks}
    blocks = []
    for block in estimate.blocks:
        index = [graph.slice_of(name) for name in params[block.name]]
        blocks.append(_block(block, rounding, index))
    said = estimate.warnings
    if error > SAME * estimate.grad_norm > 0.0:
        said += (
            f"float32 does not resolve the gradient: in float64 it differs by "
            f"{error / estimate.grad_norm:.2g} of its length (--dtype float64)",
        )
    return replace(
        estimate,
        grad_error=error,
        kappa=value,
        kappa_reason=reason,
        frobenius_norm=_sum(estimate.frobenius_norm, _matrix_error(rounding, [slice(None)])),
        trace=_sum(estimate.trace, _trace_error(rounding, [slice(None)])),
        blocks=tuple(blocks),
        warnings=said,
    )


def _block(block: BlockEstimate, rounding: Rounding, index: Sequence[slice]) -> BlockEstimate:
    """One layer's row."""
    if block.grad_error is None or block.hessian_norm is None:
        return block
    error = _grad_error(torch.cat([rounding.grad[i] for i in index]), block)
    value, reason = kappa(block.hessian_norm, block.grad_norm, _FLOOR * error)
    trace, residual = block.trace, block.residual
    if residual is not None:
        residual = max(residual, _matrix_error(rounding, index))
    if trace is not None and rounding.sums is not None and trace.n_probes == 0:
        trace = _sum(replace(trace, stderr=0.0), _trace_error(rounding, index))
    return replace(
        block,
        grad_error=error,
        kappa=value,
        kappa_reason=reason,
        trace=trace,
        residual=residual,
    )


def _grad_error(difference: Tensor, found: CurvatureEstimate | BlockEstimate) -> float:
    """‖g‖ is off by no more than the difference is long, and by its own rounding."""
    return max(norm(difference), torch.finfo(torch.float32).eps * found.grad_norm)


def _trace_error(rounding: Rounding, index: Sequence[slice]) -> float:
    """Root mean square of z'Ez over the signs: its mean is |tr E| or more."""
    if rounding.sums is None:
        return 0.0
    totals = torch.stack([rounding.sums[:, i].sum(dim=1) for i in index]).sum(dim=0)
    return totals.square().mean().sqrt().item()


def _matrix_error(rounding: Rounding, index: Sequence[slice]) -> float:
    """Root mean square of ‖Ez‖ over the signs, in some rows: about ‖E‖_F there."""
    if rounding.sums is None:
        return 0.0
    squares = sum(rounding.sums[:, i].square().sum() for i in index)
    return (squares / _SIGNS).sqrt().item()


def _sum(moment: Moment | None, error: float) -> Moment | None:
    """The sum with the larger of both errors, 0 where six digits do not show it."""
    if moment is None:
        return None
    return replace(moment, stderr=shown(moment.value, max(moment.stderr, error)))
