"""What happens when one rank fails, stops or differs; run by distributed_launch.py."""

import time

import torch
import torch.nn.functional as F
from distributed_splits import CONFIGS, own_rows, partition, parts
from torch import nn

from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.critical import critical_lr
from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.reducer import ProcessGroupReducer


def told(action):
    """The error an action ends with, as plain values."""
    try:
        action()
    except Exception as error:
        return type(error).__name__, str(error), getattr(error, "hint", "")
    return None


def mlp(rank, *, loss=None, batches=None, model=None):
    own, own_loss, rows = parts("mlp")
    rows = own_rows(rows, rank) if batches is None else batches
    return Problem.from_module(model or own, loss or own_loss, rows, reducer=ProcessGroupReducer())


def estimate(problem, **config):
    estimator = CurvatureEstimator(config=EstimatorConfig.thorough(**config))
    return estimator.estimate(problem, partition(problem))


def law_nan_on_one_rank(rank):
    rows = own_rows(parts("mlp")[2], rank)
    if rank == 1:
        rows[0][0][0, 0] = float("nan")
    return told(lambda: estimate(mlp(rank, batches=rows)))


def law_nan_on_every_rank(rank):
    rows = own_rows(parts("mlp")[2], rank)
    rows[0][0][0, 0] = float("nan")
    return told(lambda: estimate(mlp(rank, batches=rows)))


def law_a_batch_that_does_not_fit_on_one_rank(rank):
    rows = [(torch.randn(4, 5 + rank, dtype=torch.float64), torch.tensor([0, 1, 2, 0]))]
    return told(lambda: estimate(mlp(rank, batches=rows)))


def law_no_terms_anywhere(rank):
    return told(lambda: mlp(rank, batches=[]))


def law_other_weights(rank):
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return told(lambda: mlp(rank, model=model))


def law_other_parameters(rank):
    model = parts("mlp")[0]
    model[0].weight.requires_grad_(rank == 0)
    return told(lambda: mlp(rank, model=model))


def law_other_settings(rank):
    return told(lambda: estimate(mlp(rank), top_k=1 + rank))


def law_other_blocks(rank):
    problem = mlp(rank)
    estimator = CurvatureEstimator(config=CONFIGS["exact"])
    return told(lambda: estimator.estimate(problem, partition(problem) if rank else None))


def law_other_start_vectors(rank):
    problem, estimator = mlp(rank), CurvatureEstimator(config=CONFIGS["training"])
    estimator.estimate(problem, partition(problem))
    if rank == 1:
        state = estimator.state_dict()
        state["warm"] = {key: -vector for key, vector in state["warm"].items()}
        estimator.load_state_dict(state)
    return told(lambda: estimator.estimate(problem, partition(problem)))


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


def _sine_loss(once):
    def loss(model, batch):
        out = model(batch[0])
        return F.cross_entropy(_Once.apply(out) if once else out.sin(), batch[1])

    return loss


def law_one_rank_has_no_second_derivative(rank):
    found = estimate(mlp(rank, loss=_sine_loss(once=rank == 1)))
    return found.cost.method, found.cost.fallback_reason, found.lambda_max.value


def law_and_may_not_fall_back(rank):
    problem = mlp(rank, loss=_sine_loss(once=rank == 1))
    return told(lambda: GradientGraph(problem, method="double_backward"))


def _failing_later(rank, error):
    """A loss whose seventh evaluation fails on rank 1: in the middle of finite steps."""
    n = 0

    def loss(model, batch):
        nonlocal n
        n += 1
        if rank == 1 and n == 7:
            raise error
        return F.cross_entropy(model(batch[0]), batch[1])

    return loss


def law_out_of_memory_in_a_product(rank):
    error = torch.OutOfMemoryError("CUDA out of memory: tried to allocate 2 GiB")
    problem = mlp(rank, loss=_failing_later(rank, error))
    return told(lambda: estimate(problem, hvp="central_difference"))


def law_an_error_of_the_users_own_class(rank):
    class Unusual(Exception):
        def __init__(self, a, b):
            super().__init__(f"{a} and {b}")

    problem = mlp(rank, loss=_failing_later(rank, Unusual("this", "that")))
    return told(lambda: estimate(problem, hvp="forward_difference"))


def law_after_a_failure_the_ranks_go_on(rank):
    first = law_nan_on_one_rank(rank)
    return first, estimate(mlp(rank)).lambda_max.value


def law_one_rank_says_stop(rank):
    asked = 0

    def stop():
        nonlocal asked
        asked += 1
        return asked >= 4

    problem, config = mlp(rank), EstimatorConfig.thorough(refine_small=False)
    estimator = CurvatureEstimator(config=config)
    return estimator.estimate(problem, partition(problem), stop=stop if rank == 1 else None)


def law_a_time_limit_that_one_rank_meets_first(rank):
    """Rank 1 is slower, so that its clock decides."""
    _, loss, _ = parts("mlp")

    def slow(model, batch):
        time.sleep(0.05 * rank)
        return loss(model, batch)

    problem = mlp(rank, loss=slow)
    return estimate(problem, refine_small=False, max_seconds=0.3, keep_graph=False)


def law_critical_rate(rank):
    problem = mlp(rank)
    graph = GradientGraph(problem)
    return critical_lr(problem, graph.grad, graph.loss)
