"""The per-layer table: each diagonal block H_bb on the one shared gradient graph."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.curvature.kappa import grad_error, kappa, noise_floor
from homotopy_cli.curvature.moments import Moments
from homotopy_cli.curvature.operators import BlockOperator, PreconditionedOperator
from homotopy_cli.curvature.spectrum import Deadline, extremes, size_of
from homotopy_cli.curvature.warm import WarmStarts
from homotopy_cli.linalg.extreme import EigenPair, Progress, Tolerance
from homotopy_cli.linalg.operator import LinearOperator
from homotopy_cli.linalg.vectors import generator as seeded
from homotopy_cli.linalg.vectors import norm, rademacher
from homotopy_cli.problems.partition import Block, Partition
from homotopy_cli.records import BlockEstimate, BlockState, Moment


def block_estimates(
    graph: GradientGraph,
    partition: Partition,
    config: EstimatorConfig,
    *,
    seed: int,
    param_norm: float,
    inv_sqrt: Tensor | None = None,
    moments: Moments | None = None,
    warm: WarmStarts | None = None,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
    row: Callable[[BlockEstimate], None] | None = None,
) -> tuple[BlockEstimate, ...]:
    """Estimate λ_max, λ_min, ‖H_bb‖₂ and κ of every block.

    The block is H_bb, second derivatives within the layer: ‖H_bb‖ <= ‖H‖, but κ of the whole
    is not the largest κ of a block. Costs Lanczos products with each block, each of which
    only walks that block's part of the graph.

    Args:
        graph: The shared gradient.
        partition: Disjoint blocks.
        config: Tolerance and budget, per block.
        seed: Of every block's start vector.
        param_norm: ‖θ‖, for the rounding level of gradients.
        inv_sqrt: P^-1/2, shape (n,), to measure P^-1/2 H P^-1/2 instead.
        moments: Traces measured before; None leaves them out.
        warm: Start vectors between probes.
        deadline: Blocks after it are listed without eigenvalues.
        progress: Called with (blocks done, blocks).
        row: Called with each block's estimate as soon as it is there.
    """
    blocks = partition.blocks
    if config.steps is None:
        config = config.for_blocks(graph.n)
    dead = _without_effect(graph, blocks, seed)
    table = []
    for i, block in enumerate(blocks):
        table.append(
            _estimate_block(
                graph,
                block,
                "not_reached" if block.name in dead else _state(graph, block),
                config,
                generator=seeded(seed + 1 + i),
                param_norm=param_norm,
                inv_sqrt=inv_sqrt,
                moments=moments,
                warm=warm,
                deadline=deadline,
            )
        )
        if row is not None:
            row(table[-1])
        if progress is not None:
            progress(i + 1, len(blocks))
    return tuple(table)


def _estimate_block(
    graph: GradientGraph,
    block: Block,
    state: BlockState,
    config: EstimatorConfig,
    *,
    generator: torch.Generator,
    param_norm: float,
    inv_sqrt: Tensor | None,
    moments: Moments | None,
    warm: WarmStarts | None,
    deadline: Deadline | None,
) -> BlockEstimate:
    """One row of the table."""
    plain = BlockOperator(graph, block.params)
    grad = graph.gather(plain.names, graph.grad)
    operator: LinearOperator = plain
    metric = None
    if inv_sqrt is not None:
        metric = graph.gather(plain.names, inv_sqrt)
        operator, grad = PreconditionedOperator(plain, metric), metric * grad
    grad_norm = norm(grad)
    aliases = graph.problem.aliases
    trace = None
    if moments is not None:
        trace = moments.block_trace([graph.names.index(name) for name in plain.names])
        if state != "reached":  # H_bb = 0
            trace = Moment(0.0, 0.0, 0)
    common = {
        "name": block.name,
        "kind": block.kind,
        "n_params": plain.n,
        "state": state,
        "grad_norm": grad_norm,
        "parameters": tuple(
            name for kept in block.params for name in (kept, *aliases.get(kept, ()))
        ),
        "trace": trace,
    }
    if state == "not_reached":
        return BlockEstimate(**common, kappa_reason="undefined: no gradient, not reached")
    if deadline is not None and deadline.passed():
        common["state"] = "not_measured"
        return BlockEstimate(**common, kappa_reason="not measured: stopped early")
    found = extremes(
        operator,
        config,
        generator=generator,
        warm=warm,
        key=f"block:{block.name}",
        metric=metric,
        deadline=deadline,
    )
    largest, smallest = found.largest, found.smallest
    both = config.ends == "both"
    size = size_of(found, config.ends, config.rtol)
    eps = torch.finfo(graph.dtype).eps
    floor = noise_floor(
        eps=eps,
        loss=graph.loss,
        hessian_norm=size or 0.0,
        param_norm=param_norm,
        n_params=graph.n,
    )
    value, reason = kappa(size, grad_norm, floor if inv_sqrt is None else 0.0)
    if trace is not None and both and trace.n_probes and largest.converged and smallest.converged:
        low, high = smallest.value - smallest.residual, largest.value + largest.residual
        within = min(max(trace.value, plain.n * low), plain.n * high)
        common["trace"] = replace(trace, value=within)  # nλ_min <= tr <= nλ_max
    return BlockEstimate(
        **common,
        grad_error=grad_error(grad_norm, eps, floor) if inv_sqrt is None else None,
        lambda_max=largest.value,
        lambda_min=smallest.value if both else None,
        hessian_norm=size,
        residual=max(_error(end, size, config) for end in (largest, smallest)),
        converged=largest.converged and smallest.converged,
        kappa=value,
        kappa_reason=reason,
        n_hvp=found.n_matvecs,
    )


def _error(end: EigenPair, size: float | None, config: EstimatorConfig) -> float:
    """The stated error of λ_max or λ_min: its residual, or the looser tolerance it stopped at.

    A residual bounds the distance to some eigenvalue. Where `end_floor` loosened the tolerance,
    the iteration may have stopped before that one was the end itself.
    """
    tolerance = Tolerance(config.rtol, 0.0, config.end_floor)
    if size is None or not end.converged or not tolerance.blurred(end.value, end.residual):
        return end.residual
    return max(end.residual, tolerance.at(end.value, size))


def _state(graph: GradientGraph, block: Block) -> BlockState:
    states = {graph.state_of(name) for name in block.params}
    for state in ("reached", "constant_gradient"):
        if state in states:
            return state
    return "not_reached"


def _without_effect(graph: GradientGraph, blocks: Sequence[Block], seed: int) -> set[str]:
    """Blocks that the loss passes by: gradient exactly zero, and rows of H too.

    An expert that got no rows of the batch is part of the graph, so its gradient exists and
    is zero; at a minimum the gradient is zero as well, but the rows of H are not.
    """
    silent = [b for b in blocks if not bool(graph.gather(b.params, graph.grad).any())]
    if all(_state(graph, block) == "not_reached" for block in silent):
        return set()
    z = rademacher(graph.n, generator=seeded(seed), dtype=graph.dtype, device=graph.device)
    rows = graph.hvp(z)
    return {b.name for b in silent if not bool(graph.gather(b.params, rows).any())}
