"""The training preset: few warm products, honest residuals, same numbers after a resume."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.curvature.precondition import preconditioner
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


class Training:
    """A small classifier that trains by Adam on batches it draws."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 5)).double()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-3)
        self.x = torch.randn(256, 10, dtype=torch.float64)
        self.y = (self.x[:, :5] + 0.3 * torch.randn(256, 5, dtype=torch.float64)).argmax(1)

    def backward(self):
        index = torch.randint(256, (64,))
        batch = (self.x[index], self.y[index])
        self.optimizer.zero_grad()
        cross_entropy(self.model, batch).backward()
        return Problem.from_module(self.model, cross_entropy, [batch], mode="train")

    def metric(self, problem):
        return preconditioner(self.optimizer, list(problem.model_params.values()))


def test_two_warm_steps_follow_the_truth_through_training():
    """Every probe sees another batch, whose own λ_max differs: 15 % in the median is the aim."""
    run = Training()
    cheap = CurvatureEstimator(config=EstimatorConfig.cheap(steps=2))
    errors, sharp = [], []
    for step in range(24):
        problem = run.backward()
        found = cheap.estimate(problem, preconditioner=run.metric(problem))
        thorough = EstimatorConfig.thorough(
            top_k=1, trace=False, frobenius=False, directional=False
        )
        exact = CurvatureEstimator(config=thorough).estimate(
            problem, preconditioner=run.metric(problem)
        )
        run.optimizer.step()
        assert found.lambda_max.value <= exact.lambda_max.value * (1 + 1e-9)
        if step > 0:
            assert found.cost.n_hvp == 5.0  # two pairs of two products, one directional
            assert found.cost.gradient_equivalents == 11.0
        assert found.lambda_max.value + found.lambda_max.residual > 0.0
        errors.append(1 - found.lambda_max.value / exact.lambda_max.value)
        sharp.append(
            1 - found.preconditioned_sharpness.value / exact.preconditioned_sharpness.value
        )
    assert sorted(errors)[12] < 0.15
    assert sorted(sharp)[12] < 0.2


def test_first_estimate_takes_more_steps():
    problem = Training().backward()
    cheap = CurvatureEstimator(config=EstimatorConfig.cheap(steps=2, cold_steps=7))
    first = cheap.estimate(problem)
    assert first.cost.n_hvp == 7.0
    assert cheap.estimate(problem).cost.n_hvp == 2.0


def test_resume_gives_the_same_bytes():
    run = Training()
    cheap = CurvatureEstimator(config=EstimatorConfig.cheap(seed=3))
    problem = run.backward()
    metric = run.metric(problem)
    cheap.estimate(problem, preconditioner=metric)
    other = CurvatureEstimator(config=EstimatorConfig.cheap(seed=3))
    other.load_state_dict(cheap.state_dict())
    a = cheap.estimate(problem, preconditioner=metric)
    b = other.estimate(problem, preconditioner=metric)
    assert (a.lambda_max, a.lambda_min, a.kappa) == (b.lambda_max, b.lambda_min, b.kappa)
    assert a.preconditioned_sharpness == b.preconditioned_sharpness


def test_state_is_plain_tensors(tmp_path):
    run = Training()
    cheap = CurvatureEstimator(config=EstimatorConfig.cheap())
    problem = run.backward()
    cheap.estimate(problem, preconditioner=run.metric(problem))
    cheap.estimate_layers(problem, Partition.by_module(problem))
    torch.save(cheap.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert set(state["warm"]) == {"hessian", "preconditioned", "block:0", "block:2"}


def test_same_seed_same_numbers_and_other_seed_other_start():
    problem = Training().backward()
    runs = [
        CurvatureEstimator(config=EstimatorConfig.cheap(seed=seed)).estimate(problem).lambda_max
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_few_steps_are_not_called_converged():
    problem = Training().backward()
    config = EstimatorConfig.cheap(steps=1, cold_steps=1)
    found = CurvatureEstimator(config=config).estimate(problem)
    assert not found.converged
    assert found.lambda_max.residual > 0.05 * abs(found.lambda_max.value)


def test_plain_pair_can_be_left_out():
    run = Training()
    problem = run.backward()
    cheap = CurvatureEstimator(config=EstimatorConfig.cheap(steps=3, cold_steps=3))
    found = cheap.estimate(problem, preconditioner=run.metric(problem), whole=False)
    assert found.lambda_max is None and found.kappa is None
    assert found.kappa_reason == "not measured: the Hessian norm needs both ends of the spectrum"
    assert found.preconditioned_sharpness.value > 0
    assert found.cost.n_hvp == 4.0


def test_directional_sharpness_is_the_quotient_along_the_step():
    run = Training()
    problem = run.backward()
    p = run.metric(problem)
    found = CurvatureEstimator(config=EstimatorConfig.cheap()).estimate(problem, preconditioner=p)
    from homotopy_cli.curvature.exact import full_hessian

    h = full_hessian(problem)
    g = torch.cat([q.grad.reshape(-1) for q in run.model.parameters()])
    u = g / p
    assert found.directional_sharpness == pytest.approx((u @ h @ u / (u @ (p * u))).item())


def test_layers_on_one_graph():
    problem = Training().backward()
    partition = Partition.by_module(problem)
    estimator = CurvatureEstimator(config=EstimatorConfig.cheap(steps=4, cold_steps=12))
    estimator.estimate_layers(problem, partition)
    layers = estimator.estimate_layers(problem, partition)
    exact = CurvatureEstimator(config=EstimatorConfig.thorough()).estimate(problem, partition)
    assert [layer.name for layer in layers] == ["0", "2"]
    for layer, truth in zip(layers, exact.blocks, strict=True):
        assert layer.n_hvp <= 4
        assert layer.lambda_max == pytest.approx(truth.lambda_max, rel=0.05)
        assert layer.grad_norm == pytest.approx(truth.grad_norm)
        assert layer.kappa == pytest.approx(truth.kappa, rel=0.05)
        assert layer.trace is None


def test_warm_vector_of_another_size_is_ignored():
    cheap = CurvatureEstimator(config=EstimatorConfig.cheap(steps=2, cold_steps=5))
    cheap.estimate(Training().backward())
    net = nn.Linear(10, 5).double()
    batch = (torch.randn(8, 10).double(), torch.randint(5, (8,)))
    found = cheap.estimate(Problem.from_module(net, cross_entropy, [batch]))
    assert found.cost.n_hvp == 5.0
