"""FSDP2 models whose parameters stay on their ranks, against one process; float64."""

from pathlib import Path

import pytest
from cases import BY_NAME
from distributed_launch import start
from laws_shards import CONFIG, NAMES

from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.linalg.vectors import dot, gaussian, generator, norm

pytestmark = pytest.mark.distributed


@pytest.fixture
def found(ranks):
    return ranks("laws_shards")


def alone(name):
    return CurvatureEstimator(config=CONFIG).estimate(BY_NAME[name].problem())


def assert_close(found, expected):
    """The same to 1e-6 of ‖H‖: differences of gradients are good for 1e-8 or so."""
    scale = 1e-6 * expected.hessian_norm
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-10)
    assert found.n_params == expected.n_params
    assert found.n_terms == expected.n_terms
    for mine, theirs in zip(found.eigenvalues, expected.eigenvalues, strict=True):
        assert mine.value == pytest.approx(theirs.value, abs=scale + mine.residual**2)
    assert found.lambda_min.value == pytest.approx(expected.lambda_min.value, abs=scale)
    assert found.kappa == pytest.approx(expected.kappa, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_shards_give_the_eigenvalues_of_one_process(found, name):
    estimate, told = found[0]["estimates"][name]
    assert_close(estimate, alone(name))
    assert told == found[1]["estimates"][name][1]
    assert estimate.cost.method == "central_difference"
    assert "sharded (FSDP2)" in estimate.cost.fallback_reason


@pytest.mark.parametrize("name", NAMES)
def test_traces_lie_within_their_own_error(found, name):
    problem = BY_NAME[name].problem()
    exact = CurvatureEstimator().estimate(problem)
    estimate, _ = found[0]["estimates"][name]
    for mine, theirs in (
        (estimate.trace, exact.trace),
        (estimate.frobenius_norm, exact.frobenius_norm),
    ):
        assert abs(mine.value - theirs.value) <= 6.0 * mine.stderr + 1e-6 * abs(theirs.value)


def test_inner_products_and_random_vectors_are_those_of_whole_vectors(found):
    n = BY_NAME["mlp"].problem().n_params
    v, w = gaussian(n, generator=generator(3)), gaussian(n, generator=generator(4))
    lengths = []
    for rank in (0, 1):
        product, length, promised, held = found[rank]["vectors"]
        assert product == pytest.approx(dot(v, w), rel=1e-12)
        assert length == pytest.approx(norm(v), rel=1e-12)
        assert promised == held
        lengths.append(held)
    assert sum(lengths) == n
    assert lengths[0] != lengths[1]


def test_ranks_may_hold_other_numbers_of_batches(found):
    estimate = found[0]["more_batches_on_one_rank"]
    assert_close(estimate, alone("mlp"))


def test_forward_differences_restarts_and_warm_starts_find_the_same(found):
    expected = alone("mlp").lambda_max.value
    assert found[0]["forward_differences"].value == pytest.approx(expected, rel=1e-5)
    assert found[0]["restarts"].value == pytest.approx(expected, rel=1e-5)
    first, second = found[0]["training_preset"]
    assert second.residual < first.residual
    assert abs(second.value - expected) <= second.residual
    for law in ("forward_differences", "restarts", "training_preset"):
        assert found[0][law] == found[1][law]


def test_shards_gradients_and_modes_are_put_back_bit_for_bit(found):
    for rank in (0, 1):
        assert set(found[rank]["no_trace"].values()) == {True}


REFUSALS = {
    "blocks": "the layers' table is not possible: parameters are sharded (FSDP2)",
    "metric": "preconditioned curvature is not possible",
    "ggn": "curvature=ggn is not possible",
    "density": "the density is not possible",
    "twice": "hvp=double_backward is not possible",
    "graph": "whole parameters are needed here, and these are sharded (FSDP2)",
    "nan": "the loss is nan",
    "divided": "FSDP's gradient is not that of the mean loss: along it the loss changes by",
    "silent": "no gradient came to the shards: FSDP's reduction is switched off",
    "reducer": 'parameter "0.weight" lies on 2 ranks, the reducer has 1',
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_shards_cannot_give_is_refused_alike_on_all_ranks(found, what):
    kind, words, hint = found[0]["refusals"][what]
    assert kind == ("NonFiniteError" if what == "nan" else "ProblemError")
    assert REFUSALS[what] in words
    assert hint
    assert found[1]["refusals"][what] == (kind, words, hint)


def test_an_error_in_one_ranks_sharded_forward_ends_all():
    """torchrun ends rank 0, which waits in a gather, long before the group's own time-out."""
    done = start(2, str(Path(__file__).parent / "one_rank_fails.py"))
    assert done.returncode != 0
    assert "ProblemError: 4 features given, 5 wanted" in done.stderr
