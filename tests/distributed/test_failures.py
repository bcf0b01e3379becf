"""One rank fails, stops or differs: all ranks end alike, at once and in the same words."""

import pytest
import torch
from cases import BY_NAME
from distributed_splits import CONFIGS, partition, parts

from homotopy_cli.curvature.critical import critical_lr
from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.problems.problem import Problem

pytestmark = pytest.mark.distributed

TOLD = {  # law -> (class, words of the message, words of the hint)
    "nan_on_one_rank": ("NonFiniteError", "rank 1: the loss is nan", "check the weights"),
    "nan_on_every_rank": ("NonFiniteError", "the loss is nan", "check the weights"),
    "a_batch_that_does_not_fit_on_one_rank": ("ProblemError", "rank 1: ", ""),
    "no_terms_anywhere": ("ProblemError", "no loss term: the batch is empty", "at least one"),
    "other_weights": ("ProblemError", "rank 1 holds other weights than rank 0: ‖θ‖ is", "broad"),
    "other_parameters": ("ProblemError", "rank 1 has other parameters than rank 0", "same model"),
    "other_settings": (
        "ProblemError",
        "rank 1 and rank 0 were asked for different estimates: settings differ",
        "the same calls",
    ),
    "other_blocks": ("ProblemError", "different estimates: blocks differ", "the same calls"),
    "other_start_vectors": ("ProblemError", "start vectors differ", "saved state on every rank"),
    "and_may_not_fall_back": ("ProblemError", "cannot be differentiated twice", "--hvp auto"),
    "out_of_memory_in_a_product": ("ProblemError", "rank 1: ", ""),
    "an_error_of_the_users_own_class": ("ProblemError", "this and that", ""),
}


@pytest.fixture
def found(ranks):
    return ranks("laws_failures")


@pytest.mark.parametrize("law", TOLD)
def test_all_ranks_raise_the_same_error(found, law):
    kind, words, hint = TOLD[law]
    assert found[0][law] == found[1][law]
    assert found[0][law][0] == kind
    assert words in found[0][law][1]
    assert hint in found[0][law][2]


def test_an_error_on_every_rank_names_none(found):
    assert found[0]["nan_on_every_rank"][1] == "the loss is nan"


def test_all_ranks_fall_back_where_one_has_no_second_derivative(found):
    model, _, batches = parts("mlp")

    def sine(model, batch):
        return torch.nn.functional.cross_entropy(model(batch[0]).sin(), batch[1])

    problem = Problem.from_module(model, sine, batches)
    expected = CurvatureEstimator(config=CONFIGS["exact"]).estimate(problem, partition(problem))
    assert (
        found[0]["one_rank_has_no_second_derivative"]
        == (found[1]["one_rank_has_no_second_derivative"])
    )
    method, reason, value = found[0]["one_rank_has_no_second_derivative"]
    assert method == "central_difference"
    assert "once_differentiable" in reason
    assert value == pytest.approx(expected.lambda_max.value, rel=1e-6)


def test_ranks_go_on_after_a_failure(found):
    problem = BY_NAME["mlp"].problem()
    expected = CurvatureEstimator(config=CONFIGS["exact"]).estimate(problem, partition(problem))
    for rank in (0, 1):
        first, value = found[rank]["after_a_failure_the_ranks_go_on"]
        assert first[1] == "rank 1: the loss is nan"
        assert value == pytest.approx(expected.lambda_max.value, rel=1e-10)


@pytest.mark.parametrize("law", ["one_rank_says_stop", "a_time_limit_that_one_rank_meets_first"])
def test_one_rank_stops_all(found, law):
    assert found[0][law] == found[1][law]
    assert not found[0][law].converged
    assert any("stopped early" in words for words in found[0][law].warnings)


def test_the_critical_rate_is_that_of_all_rows(found):
    problem = BY_NAME["mlp"].problem()
    graph = GradientGraph(problem)
    expected = critical_lr(problem, graph.grad, graph.loss)
    assert found[0]["critical_rate"] == found[1]["critical_rate"]
    assert found[0]["critical_rate"].critical == pytest.approx(expected.critical, rel=1e-9)
