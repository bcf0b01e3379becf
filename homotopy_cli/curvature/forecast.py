"""What an estimate will cost, before it is spent."""

import time
from dataclasses import dataclass

import torch

from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem

_HVP = 2.3  # gradients per product, measured on a GPT; 1.5 to 2.3 over three models
_BLOCK_HVP = 0.9  # the same for a product with one layer; 0.9 on the quickstart's GPT of 27
_TYPICAL = 25  # products until both ends stand still at rtol 1e-3; 4 to 40 measured
_PER_PAIR = 4  # more for each further pair


@dataclass(frozen=True)
class Forecast:
    """Predicted cost: right to a factor of about two."""

    n_hvp: float  # with whole vectors and with blocks
    seconds: float
    memory_bytes: int  # vectors of the iterations, without the gradient's graph


def forecast(problem: Problem, partition: Partition | None, config: EstimatorConfig) -> Forecast:
    """Predict the cost of `estimate` from the problem's size and one timed gradient.

    Args:
        problem: What will be measured.
        partition: Its blocks.
        config: The effort.
    """
    config, n = config.capped(), problem.n_params
    _, budget = config.resolution(n)
    typical = min(config.steps or _TYPICAL * (2 if config.is_exact(n) else 1), n, budget)
    pairs = min(config.top_k + 1, n)
    products = float(min(typical + _PER_PAIR * pairs, n, budget)) if config.whole else 0.0
    explicit, copies = config.confirmation(n)
    if config.max_hvp is not None:  # these are part of the budget then
        explicit = copies = False
    if explicit:
        products += 1 if explicit == "one" else pairs
    if copies and config.top_k > 1:
        products += min(typical, n)
    if config.checks:
        products += 4
    if config.trace or config.frobenius:
        products += n if config.is_exact(n) else config.max_probes
    if config.density and not config.is_exact(n):
        products += config.density_probes * config.density_steps
    of_blocks = 0
    if config.blocks and partition is not None:
        sizes = [sum(problem.numels[name] for name in block.params) for block in partition.blocks]
        of_blocks = sum(min(typical, size) for size in sizes)
    size = torch.finfo(problem.dtype).bits // 8
    vectors = min(budget, 2 * typical + _PER_PAIR * pairs) + pairs + 6
    seconds = (products * _HVP + of_blocks * _BLOCK_HVP) * _one_gradient(problem)
    kept = min(vectors * n * size, config.max_memory + (pairs + 6) * n * size)
    return Forecast(products + of_blocks, seconds, kept)


_QUICK = 0.05  # seconds: gradients below are timed again, since one of them says little


def _one_gradient(problem: Problem) -> float:
    """Seconds of one forward and backward pass; the first one warms up and is not counted."""
    params = list(problem.params.values())
    timed: list[float] = []
    with problem.measuring():
        for _ in range(6):
            started = time.perf_counter()
            for i in range(len(problem.batches)):
                loss = problem.batch_loss(i)
                if loss.requires_grad:
                    torch.autograd.grad(loss, params, allow_unused=True)
            timed.append(time.perf_counter() - started)
            if len(timed) > 1 and sum(timed) > _QUICK:
                break
    return min(timed[1:])
