"""What two ranks compute of models under DistributedDataParallel; run by distributed_launch.py."""

import copy
import pickle

import torch
from distributed_splits import CASES, CONFIGS, direction, own_rows, partition, parts
from torch.nn.parallel import DistributedDataParallel

from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.curvature.ggn import GGNGraph
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.reducer import ProcessGroupReducer


def spread(name, rank, *, wrap=True, loss=None, **options):
    model, own_loss, batches = parts(name)
    if wrap:
        model = DistributedDataParallel(model, find_unused_parameters=True)
    return Problem.from_module(
        model, loss or own_loss, own_rows(batches, rank), reducer=ProcessGroupReducer(), **options
    )


def law_estimates(rank):
    found = {}
    for name in CASES:
        for kind, config in CONFIGS.items():
            problem = spread(name, rank)
            estimator = CurvatureEstimator(config=config)
            estimate = estimator.estimate(problem, partition(problem))
            found[name, kind] = estimate, pickle.dumps(estimate)
    return found


def law_vectors(rank):
    found = {}
    for name in CASES:
        problem = spread(name, rank)
        v = direction(problem.n_params)
        for method in ("double_backward", "forward_over_reverse", "central_difference"):
            if name not in ("mlp", "tied gpt") and method == "forward_over_reverse":
                continue
            graph = GradientGraph(problem, method=method)
            found[name, method] = graph.loss, graph.grad, graph.hvp(v)
        rebuilt = GradientGraph(problem, keep_graph=False)
        found[name, "rebuilt"] = rebuilt.loss, rebuilt.grad, rebuilt.hvp(v)
    return found


def law_gauss_newton(rank):
    found = {}
    for name in ("mlp", "tied gpt", "ignored tokens"):
        problem = spread(name, rank, loss="cross_entropy")
        graph = GGNGraph(problem)
        found[name] = graph.loss, graph.grad, graph.hvp(direction(problem.n_params))
    return found


def law_microbatches(rank):
    problem = spread("mlp", rank, microbatch=2)
    graph = GradientGraph(problem)
    return graph.loss, graph.grad, graph.hvp(direction(problem.n_params))


def law_a_rank_without_terms(rank):
    model, loss, batches = parts("mlp")
    mine = batches if rank == 1 else []
    problem = Problem.from_module(model, loss, mine, reducer=ProcessGroupReducer())
    config = CONFIGS["exact"]
    return CurvatureEstimator(config=config).estimate(problem, partition(problem))


def law_preconditioned(rank):
    problem = spread("mlp", rank)
    p = 0.1 + direction(problem.n_params).abs() * (1.0 + rank)  # rank 0's is everybody's
    estimator = CurvatureEstimator(config=CONFIGS["exact"])
    return estimator.estimate(problem, preconditioner=p)


def law_warm_starts(rank):
    """A second estimate, from the first one's vectors."""
    problem = spread("tied gpt", rank)
    estimator = CurvatureEstimator(config=CONFIGS["training"])
    estimator.estimate(problem, partition(problem))
    estimate = estimator.estimate(problem, partition(problem))
    return estimate, estimator.state_dict()["warm"]


def law_no_trace(rank):
    model, loss, batches = parts("conv bn")
    wrapped = DistributedDataParallel(model.train())
    loss(wrapped, own_rows(batches, rank)[0]).backward()
    state, rng = copy.deepcopy(wrapped.state_dict()), torch.get_rng_state()
    grads = [p.grad.clone() for p in model.parameters()]
    modes = [m.training for m in wrapped.modules()]
    for mode in ("eval", "train"):
        problem = Problem.from_module(
            wrapped, loss, own_rows(batches, rank), mode=mode, reducer=ProcessGroupReducer()
        )
        CurvatureEstimator(config=CONFIGS["exact"]).estimate(problem, partition(problem))
    same = all(
        torch.equal(a, b)
        for a, b in zip(state.values(), wrapped.state_dict().values(), strict=True)
    )
    same &= all(torch.equal(a, p.grad) for a, p in zip(grads, model.parameters(), strict=True))
    return {
        "tensors": same,
        "modes": modes == [m.training for m in wrapped.modules()],
        "generators": torch.equal(rng, torch.get_rng_state()),
    }
