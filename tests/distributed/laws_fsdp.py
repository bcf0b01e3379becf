"""What two ranks compute of models under FSDP2's fully_shard; run by distributed_launch.py."""

import pickle

import torch
from distributed_splits import CONFIGS, own_rows, partition, parts
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.curvature.precondition import preconditioner
from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.reducer import ProcessGroupReducer

SHARDED = ("mlp", "conv bn", "tied gpt", "ignored tokens", "frozen and unused", "encoder")


def sharded(name):
    """Every module with children's parameters in a group of its own, then the root."""
    model, loss, batches = parts(name)
    for module in [m for m in model.children() if list(m.parameters())]:
        if name not in ("tied gpt", "ignored tokens"):  # tied weights belong to one group
            fully_shard(module)
    fully_shard(model)
    return model, loss, batches


def problem_of(name, rank, **options):
    model, loss, batches = sharded(name)
    rows = own_rows(batches, rank)
    return model, Problem.from_module(model, loss, rows, reducer=ProcessGroupReducer(), **options)


def law_estimates(rank):
    found = {}
    for name in SHARDED:
        _, problem = problem_of(name, rank)
        estimator = CurvatureEstimator(config=CONFIGS["exact"])
        estimate = estimator.estimate(problem, partition(problem))
        found[name] = estimate, pickle.dumps(estimate)
    return found


def _train(model, optimizer, loss, rows, between):
    """Three steps, with something done between backward and step; returns the local shards."""
    for step in range(3):
        optimizer.zero_grad()
        loss(model, rows[0]).backward()
        between(step)
        optimizer.step()
    return [p.to_local().detach().clone() for p in model.parameters()]


def law_a_probed_run_is_the_run_itself(rank):
    """Weights, state and modes of a training run, with and without probes in it."""
    ends, facts = [], []
    for probed in (False, True):
        model, loss, batches = sharded("mlp")
        rows = own_rows(batches, rank)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

        def probe(step, model=model, loss=loss, rows=rows, optimizer=optimizer):
            kinds = [type(p).__name__ for p in model.parameters()]
            grads = [p.grad.to_local().clone() for p in model.parameters()]
            modes = [m.training for m in model.modules()]
            problem = Problem.from_module(model, loss, rows, reducer=ProcessGroupReducer())
            metric = preconditioner(optimizer, list(problem.model_params.values()))
            estimator = CurvatureEstimator(config=CONFIGS["exact"])
            estimate = estimator.estimate(problem, partition(problem), preconditioner=metric)
            now = [p.grad.to_local() for p in model.parameters()]
            facts.append(
                {
                    "kinds": kinds == [type(p).__name__ for p in model.parameters()],
                    "sharded": all(isinstance(p, DTensor) for p in model.parameters()),
                    "grads": all(torch.equal(a, b) for a, b in zip(grads, now, strict=True)),
                    "modes": modes == [m.training for m in model.modules()],
                    "sharpness": estimate.preconditioned_sharpness.value,
                }
            )

        ends.append(_train(model, optimizer, loss, rows, probe if probed else lambda step: None))
    same = all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    return same, facts


def law_mean_rows_alone(rank):
    """The same training in one process's terms: DDP-free, on the mean of both ranks' losses."""
    model, loss, batches = parts("mlp")
    rows = [own_rows(batches, r)[0] for r in (0, 1)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    found = []
    for _ in range(3):
        optimizer.zero_grad()
        (0.5 * loss(model, rows[0]) + 0.5 * loss(model, rows[1])).backward()
        problem = Problem.from_module(model, loss, rows)
        metric = preconditioner(optimizer, list(problem.model_params.values()))
        estimator = CurvatureEstimator(config=CONFIGS["exact"])
        estimate = estimator.estimate(problem, preconditioner=metric)
        found.append(estimate.preconditioned_sharpness.value)
        optimizer.step()
    return found


def law_hooks_of_the_user_still_run(rank):
    model, loss, batches = sharded("mlp")
    calls = []
    model[0].register_forward_hook(lambda module, args, out: calls.append(1) or out * 2.0)
    problem = Problem.from_module(
        model, loss, own_rows(batches, rank), reducer=ProcessGroupReducer()
    )
    plain, _, _ = parts("mlp")
    plain[0].register_forward_hook(lambda module, args, out: out * 2.0)
    expected = Problem.from_module(plain, loss, batches)
    estimator = CurvatureEstimator(config=CONFIGS["exact"])
    return estimator.estimate(problem), estimator.estimate(expected), len(calls) > 0
