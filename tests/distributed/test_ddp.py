"""Two ranks under DistributedDataParallel against one process with all rows; float64."""

import pickle

import pytest
import torch
from cases import BY_NAME
from distributed_close import assert_same_estimate
from distributed_splits import CASES, CONFIGS, direction, partition, parts
from oracles import dense

from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.problems.problem import Problem

pytestmark = pytest.mark.distributed
METHODS = ("double_backward", "forward_over_reverse", "central_difference", "rebuilt")


@pytest.fixture
def found(ranks):
    return ranks("laws_ddp")


def close(a, b, rtol=1e-10):
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * b.abs().max().item())


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_give_the_estimate_of_one_process(found, name, kind):
    problem = BY_NAME[name].problem()
    expected = CurvatureEstimator(config=CONFIGS[kind]).estimate(problem, partition(problem))
    estimate, _ = found[0]["estimates"][name, kind]
    assert estimate.n_terms == sum(BY_NAME[name].counts)
    assert_same_estimate(estimate, expected)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", CASES)
def test_all_ranks_return_identical_bytes(found, name, kind):
    assert found[0]["estimates"][name, kind][1] == found[1]["estimates"][name, kind][1]


@pytest.mark.parametrize("name", CASES)
def test_gradient_and_product_agree_with_autograd_on_all_rows(found, name):
    """Oracle: fourth-order differences on all rows in this process; and our own one rank."""
    case = BY_NAME[name]
    f, theta = dense.objective(*parts(name), case.counts)
    hessian, gradient = dense.difference_hessian(f, theta), dense.gradient(f, theta)
    v = direction(len(gradient))
    alone = GradientGraph(case.problem()).hvp(v)
    for method in METHODS:
        if (name, method) not in found[0]["vectors"]:
            continue
        loss, grad, product = found[0]["vectors"][name, method]
        assert loss == pytest.approx(f(theta).item(), rel=1e-12)
        close(grad, gradient)
        close(product, hessian @ v, rtol=1e-6 if method == "central_difference" else 1e-8)
        close(product, alone, rtol=1e-6 if method == "central_difference" else 1e-10)
        other = found[1]["vectors"][name, method]
        assert loss == other[0]
        assert torch.equal(grad, other[1])
        assert torch.equal(product, other[2])


@pytest.mark.parametrize("name", ["mlp", "tied gpt", "ignored tokens"])
def test_the_gauss_newton_product_agrees_with_one_process(found, name):
    model, _, batches = parts(name)
    from homotopy_cli.curvature.ggn import GGNGraph

    graph = GGNGraph(Problem.from_module(model, "cross_entropy", batches))
    loss, grad, product = found[0]["gauss_newton"][name]
    assert loss == pytest.approx(graph.loss, rel=1e-12)
    close(grad, graph.grad)
    close(product, graph.hvp(direction(graph.n)))


def test_microbatches_of_each_rank_change_nothing(found):
    graph = GradientGraph(BY_NAME["mlp"].problem())
    loss, grad, product = found[0]["microbatches"]
    assert loss == pytest.approx(graph.loss, rel=1e-12)
    close(grad, graph.grad)
    close(product, graph.hvp(direction(graph.n)))


def test_a_rank_may_have_no_term_at_all(found):
    problem = BY_NAME["mlp"].problem()
    expected = CurvatureEstimator(config=CONFIGS["exact"]).estimate(problem, partition(problem))
    for rank in (0, 1):
        assert_same_estimate(found[rank]["a_rank_without_terms"], expected)


def test_the_metric_is_that_of_the_first_rank(found):
    problem = BY_NAME["mlp"].problem()
    p = 0.1 + direction(problem.n_params).abs()
    estimator = CurvatureEstimator(config=CONFIGS["exact"])
    expected = estimator.estimate(problem, preconditioner=p)
    for rank in (0, 1):
        assert_same_estimate(found[rank]["preconditioned"], expected)


def test_warm_starts_are_the_same_on_all_ranks(found):
    (first, vectors), (second, others) = (r["warm_starts"] for r in found)
    assert pickle.dumps(first) == pickle.dumps(second)
    assert vectors.keys() == others.keys() and len(vectors) > 1
    assert all(torch.equal(vectors[key], others[key]) for key in vectors)


def test_no_trace_is_left_on_a_wrapped_model(found):
    for rank in (0, 1):
        assert found[rank]["no_trace"] == {"tensors": True, "modes": True, "generators": True}
