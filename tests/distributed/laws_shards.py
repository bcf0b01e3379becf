"""Curvature of models that stay sharded (FSDP2); run by distributed_launch.py."""

import pickle

import torch
from distributed_splits import own_rows, parts
from laws_failures import told
from laws_fsdp import sharded

from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.linalg.vectors import dot, gaussian, generator, norm, spread_out
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.reducer import LOCAL, ProcessGroupReducer

NAMES = ("mlp", "tied gpt", "frozen and unused", "uneven batches")
CONFIG = EstimatorConfig.thorough(
    refine_small=False, blocks=False, rtol=1e-6, top_k=2, max_probes=4, trace_rtol=0.0
)


def on_shards(name, rank, **options):
    model, loss, batches = sharded(name)
    rows = own_rows(batches, rank)
    reducer = options.pop("reducer", None) or ProcessGroupReducer()
    problem = Problem.from_module(model, loss, rows, reducer=reducer, sharded=True, **options)
    return model, problem


def law_estimates(rank):
    found = {}
    for name in NAMES:
        _, problem = on_shards(name, rank)
        estimate = CurvatureEstimator(config=CONFIG).estimate(problem)
        found[name] = estimate, pickle.dumps(estimate)
    return found


def law_training_preset(rank):
    """Few warm steps, twice."""
    _, problem = on_shards("mlp", rank)
    estimator = CurvatureEstimator(config=EstimatorConfig.cheap(steps=3))
    return [estimator.estimate(problem).lambda_max for _ in range(2)]


def law_forward_differences(rank):
    _, problem = on_shards("mlp", rank)
    config = EstimatorConfig.thorough(
        refine_small=False, blocks=False, hvp="forward_difference", trace=False, frobenius=False
    )
    return CurvatureEstimator(config=config).estimate(problem).lambda_max


def law_restarts(rank):
    """Little memory for vectors: the basis restarts."""
    _, problem = on_shards("mlp", rank)
    config = EstimatorConfig.thorough(
        refine_small=False, blocks=False, max_memory=20 * 75 * 8, trace=False, frobenius=False
    )
    return CurvatureEstimator(config=config).estimate(problem).lambda_max


def law_vectors(rank):
    """Inner products and random vectors of parts."""
    _, problem = on_shards("mlp", rank)
    shards = problem.shards
    with spread_out(shards):
        v = gaussian(shards.n, generator=generator(3))
        w = gaussian(shards.n, generator=generator(4))
        found = dot(v, w), norm(v), shards.length, len(v)
    return found


def law_more_batches_on_one_rank(rank):
    model, loss, batches = sharded("mlp")
    (x, y), *_ = batches
    rows = [(x[:5], y[:5])] if rank == 0 else [(x[5:8], y[5:8]), (x[8:9], y[8:9]), (x[9:], y[9:])]
    problem = Problem.from_module(model, loss, rows, reducer=ProcessGroupReducer(), sharded=True)
    return CurvatureEstimator(config=CONFIG).estimate(problem)


def law_no_trace(rank):
    """Shards, gradients, kinds, modes and buffers; also after a forward pass in eval mode."""
    model, problem = on_shards("conv bn", rank)
    loss, rows = parts("conv bn")[1], own_rows(parts("conv bn")[2], rank)
    model.train()
    loss(model, rows[0]).backward()
    model.eval()
    shards = [p.to_local().clone() for p in model.parameters()]
    grads = [p.grad for p in model.parameters()]
    values = [g.to_local().clone() for g in grads]
    buffers = [b.clone() for b in model.buffers()]
    objects = [id(p) for p in model.parameters()]
    with torch.no_grad():
        outputs = model(rows[0][0])
    CurvatureEstimator(config=CONFIG).estimate(problem)
    kept = {
        "objects": objects == [id(p) for p in model.parameters()],
        "shards": all(map(torch.equal, shards, [p.to_local() for p in model.parameters()])),
        "grads": all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True)),
        "values": all(map(torch.equal, values, [g.to_local() for g in grads])),
        "buffers": all(map(torch.equal, buffers, list(model.buffers()))),
        "modes": not any(m.training for m in model.modules()),
    }
    with torch.no_grad():
        kept["outputs"] = torch.equal(outputs, model(rows[0][0]))
    return kept


def law_refusals(rank):
    _, problem = on_shards("mlp", rank)
    estimator = CurvatureEstimator(config=CONFIG)
    blocks = Partition.by_parameter(problem)

    def estimate(**changes):
        config = EstimatorConfig.thorough(**changes)
        return lambda: CurvatureEstimator(config=config).estimate(problem, blocks)

    ones = torch.ones(problem.n_params, dtype=torch.float64)
    nan = parts("mlp")[2][0][0].clone()
    nan[-1, 0] = float("nan")  # a row of rank 1

    def with_nan():
        broken, loss, batches = sharded("mlp")
        rows = own_rows([(nan, batches[0][1])], rank)
        made = Problem.from_module(broken, loss, rows, reducer=ProcessGroupReducer(), sharded=True)
        CurvatureEstimator(config=CONFIG).estimate(made)

    def divided():
        scaled, loss, batches = sharded("mlp")
        for module in scaled.modules():
            if hasattr(module, "set_gradient_divide_factor"):
                module.set_gradient_divide_factor(1.0)
        made = Problem.from_module(
            scaled, loss, own_rows(batches, rank), reducer=ProcessGroupReducer(), sharded=True
        )
        CurvatureEstimator(config=CONFIG).estimate(made)

    def silent():
        made_model, made = on_shards("mlp", rank)
        made_model.set_requires_gradient_sync(False)
        CurvatureEstimator(config=CONFIG).estimate(made)

    def one_rank_only():
        whole, loss, batches = sharded("mlp")
        Problem.from_module(whole, loss, batches, reducer=LOCAL, sharded=True)

    return {
        "blocks": told(estimate(blocks=True)),
        "metric": told(lambda: estimator.estimate(problem, preconditioner=ones)),
        "ggn": told(estimate(blocks=False, curvature="ggn")),
        "density": told(estimate(blocks=False, density=True)),
        "twice": told(estimate(blocks=False, hvp="double_backward")),
        "graph": told(lambda: GradientGraph(problem)),
        "nan": told(with_nan),
        "divided": told(divided),
        "silent": told(silent),
        "reducer": told(one_rank_only),
    }
