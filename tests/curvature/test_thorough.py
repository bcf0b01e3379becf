"""The probe's preset on a problem too large for exact sums, its budgets and its options."""

import math

import numpy as np
import pytest
import torch
import torch.nn as nn
from cases import BY_NAME

from homotopy_cli.curvature.api import probe, validate
from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.curvature.exact import full_hessian
from homotopy_cli.curvature.validate import validate as against_exact
from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem

N_PARAMS = 16 * 48 + 48 + 48 * 12 + 12


@pytest.fixture(scope="module")
def hessian(problem):
    h = full_hessian(problem)
    return 0.5 * (h + h.T)


def test_every_quantity_is_inside_its_bound(problem, hessian):
    partition = Partition.by_module(problem)
    estimate = probe(problem, partition, density=True)
    assert problem.n_params == N_PARAMS > 1000
    assert estimate.converged
    table = against_exact(problem, estimate, partition)
    quantities = {row.quantity for row in table}
    assert {"lambda_max", "lambda_min", "trace", "frobenius_norm", "kappa", "0.trace"} <= quantities
    assert [row.quantity for row in table if not row.within_bound] == []
    close = {row.quantity: row.relative_error for row in table}
    assert close["lambda_max"] < 1e-5 and close["hessian_norm"] < 1e-5
    assert estimate.trace.n_probes == 64  # its tolerance is out of reach with that many
    total = math.fsum(block.trace.value for block in estimate.blocks)
    assert total == pytest.approx(estimate.trace.value, rel=1e-12)
    density = estimate.density
    assert density.weights.sum() == pytest.approx(1.0, abs=1e-12)
    mean = float(np.sum(density.weights * density.nodes)) * problem.n_params
    off_diagonal = hessian.square().sum() - hessian.diagonal().square().sum()
    stderr = (2.0 * off_diagonal / density.n_probes).sqrt().item()
    assert abs(mean - hessian.trace().item()) < 4.0 * stderr


def test_probing_stops_when_two_standard_errors_are_small_enough(problem):
    estimate = probe(problem, None, trace_rtol=0.4)
    assert 2 * estimate.trace.stderr <= 0.4 * abs(estimate.trace.value)
    assert 4 <= estimate.trace.n_probes < 64


def test_preconditioned_curvature(problem, hessian):
    p = torch.rand(problem.n_params, dtype=torch.float64) + 0.1
    partition = Partition.by_module(problem)
    estimate = probe(problem, partition, preconditioner=p, curvature="preconditioned")
    table = against_exact(problem, estimate, partition, preconditioner=p)
    assert [row.quantity for row in table if not row.within_bound] == []
    assert estimate.preconditioned_sharpness == estimate.lambda_max
    side = probe(problem, None, preconditioner=p, trace=False, frobenius=False)
    assert side.curvature == "hessian"
    assert side.preconditioned_sharpness.value == pytest.approx(estimate.lambda_max.value, rel=1e-5)


def test_preconditioned_without_optimizer_is_refused(problem):
    with pytest.raises(ProblemError, match="needs an optimizer's state") as caught:
        probe(problem, curvature="preconditioned")
    assert "--curvature hessian" in caught.value.hint


def test_spent_time_is_said_not_hidden(problem):
    estimate = probe(problem, max_seconds=0.0)
    assert not estimate.lambda_max.converged
    assert {block.kappa_reason for block in estimate.blocks} == {"not measured: stopped early"}


def test_max_hvp_is_kept_and_not_converged(problem):
    config = {"max_hvp": 4, "trace": False, "frobenius": False, "multiplicity": False}
    estimate = probe(problem, None, explicit_residual=False, checks=False, **config)
    assert estimate.cost.n_hvp == 4.0
    assert not estimate.converged


def test_cost_is_measured_and_progress_is_told(problem):
    told = []
    estimator = CurvatureEstimator(config=EstimatorConfig.thorough(density=True))
    estimate = estimator.estimate(
        problem, Partition.by_module(problem), progress=lambda *event: told.append(event)
    )
    assert {phase for phase, _, _ in told} == {
        "gradient",
        "eigenvalues",
        "trace",
        "blocks",
        "density",
    }
    assert all(done <= total for _, done, total in told)
    assert estimate.cost.method == "double_backward" and estimate.cost.fallback_reason == ""
    assert estimate.cost.gradient_equivalents > 1.0 and estimate.cost.seconds > 0.0


def test_forecast_is_of_the_right_size(problem):
    partition = Partition.by_module(problem)
    estimator = CurvatureEstimator(config=EstimatorConfig.thorough())
    predicted = estimator.forecast(problem, partition)
    spent = estimator.estimate(problem, partition).cost
    assert 1 / 3 < predicted.n_hvp / spent.n_hvp < 3
    assert predicted.memory_bytes > 8 * problem.n_params * 20
    assert predicted.seconds > 0


def test_one_number_form_of_the_founding_document(problem):
    net = problem.model
    inputs, targets = problem.batches[0]
    values = {}
    for method in ("lanczos", "power", "hutchinson"):
        estimator = CurvatureEstimator(net, nn.functional.cross_entropy, method=method)
        values[method] = estimator.estimate(inputs, targets)
        assert estimator.curvature_history == [values[method]]
    h = full_hessian(problem)
    g = probe(problem, None, trace=False, frobenius=False).grad_norm ** 2
    assert values["lanczos"] == pytest.approx(torch.linalg.matrix_norm(h, 2).item() / g, rel=1e-5)
    assert values["power"] == pytest.approx(values["lanczos"], rel=0.05)
    assert values["hutchinson"] == pytest.approx(torch.linalg.matrix_norm(h).item() / g, rel=0.2)


def test_one_number_form_is_infinite_at_a_minimum():
    case = BY_NAME["zero gradient"]
    model, batches = case.parts()
    estimator = CurvatureEstimator(model, lambda out, y: nn.functional.mse_loss(out[:, 0], y))
    assert estimator.estimate(*batches[0]) == math.inf


def test_one_number_form_needs_a_model():
    with pytest.raises(TypeError, match=r"needs CurvatureEstimator\(model, loss_fn\)"):
        CurvatureEstimator().estimate(torch.ones(1), torch.ones(1))
    with pytest.raises(ValueError, match="method must be one of"):
        CurvatureEstimator(method="trace")


def test_one_number_form_takes_no_keywords_of_the_other(problem):
    estimator = CurvatureEstimator(problem.model, nn.functional.cross_entropy)
    given = {"preconditioner": torch.ones(problem.n_params), "whole": False, "stop": lambda: True}
    for name, value in given.items():
        with pytest.raises(TypeError, match=rf"estimate\(inputs, targets\) takes no {name}: make"):
            estimator.estimate(*problem.batches[0], **{name: value})
    assert estimator.curvature_history == []


def test_full_hessian_refuses_above_its_limit(problem):
    with pytest.raises(ProblemError, match=r"of 1,404 parameters is above the limit of 1,000"):
        full_hessian(problem, limit=1000)


def test_validation_shows_a_wrong_estimate(problem):
    """A bound that is too small, or an eigenvalue that was missed, must not pass."""
    from dataclasses import replace

    estimate = probe(problem, None, trace=False, frobenius=False)
    missed = replace(estimate, lambda_max=estimate.eigenvalues[1])
    table = {row.quantity: row for row in against_exact(problem, missed)}
    assert not table["lambda_max"].within_bound
    assert table["lambda_max"].relative_error > 1e-3
    assert table["lambda_min"].within_bound


def test_layers_are_by_module_a_partition_or_none_at_all():
    problem = BY_NAME["mlp"].problem()
    quick = {"top_k": 1, "trace": False, "frobenius": False, "checks": False}
    by_module = Partition.by_module(problem)
    told = CurvatureEstimator(config=EstimatorConfig.thorough(**quick)).estimate(problem, by_module)
    assert probe(problem, **quick).blocks == told.blocks
    assert probe(problem, by_module, **quick).blocks == told.blocks
    finer = probe(problem, Partition.by_parameter(problem), **quick)
    assert [block.name for block in finer.blocks] == list(problem.params)
    without = probe(problem, None, **quick)
    assert without.blocks == () and without.cost.n_hvp < finer.cost.n_hvp
    assert without.lambda_max == finer.lambda_max


@pytest.mark.parametrize("wrong", ["modul", Partition.by_module, ["0", "2"]])
def test_what_is_no_partition_is_refused_before_anything_is_measured(wrong):
    with pytest.raises(TypeError, match="partition must be a Partition or None, got"):
        probe(BY_NAME["mlp"].problem(), wrong)


def test_validate_refuses_a_large_problem_before_it_measures_anything(problem, monkeypatch):
    monkeypatch.setattr(CurvatureEstimator, "estimate", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(ProblemError, match=r"of 1,404 parameters is above the limit of 1,000") as e:
        validate(problem, limit=1000)
    assert e.value.hint.startswith("raise it with --validate-limit 1404 (limit=1404 in Python)")


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_validate_in_one_call(dtype, rtol):
    """λ_min of the last layer is zero: its relative error is relative to ‖H‖."""
    table = validate(BY_NAME["mlp"].problem(dtype))
    assert len(table) > 10 and all(row.within_bound for row in table)
    assert max(row.relative_error for row in table) < rtol


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"rtol": 0.0}, "rtol must lie between 0 and 1"),
        ({"max_hvp": 0}, "max_hvp >= 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"curvature": "fisher"}, "curvature must be hessian, ggn or preconditioned"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        EstimatorConfig(**settings)


def test_resolution_rule():
    config = EstimatorConfig.thorough(rtol=1e-3)
    assert config.resolution(1000) == (1e-12, 1000)
    assert config.resolution(1001) == (1e-3, 300)
    few = EstimatorConfig.thorough(rtol=1e-3, max_hvp=50)
    assert few.resolution(1000) == (1e-12, 50)
    assert few.resolution(1001) == (1e-3, 50)
    assert EstimatorConfig.cheap().resolution(10) == (0.05, 300)


def test_no_trainable_parameter_is_refused():
    problem = Problem.from_closure({"w": torch.ones(1)}, lambda p: p["w"].sum())
    problem.params.clear()
    with pytest.raises(ProblemError, match="no trainable parameter"):
        CurvatureEstimator().estimate(problem)
