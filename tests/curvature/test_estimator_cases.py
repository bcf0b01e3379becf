"""Every case against the dense Hessian, in float64 and float32."""

import math
from functools import cache

import pytest
import torch
import torch.nn as nn
from cases import BY_NAME, CASES
from oracles import dense

from homotopy_cli.curvature.api import probe
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem


def close(found, wanted, rtol, scale):
    assert found == pytest.approx(wanted, rel=rtol, abs=max(rtol * 1e-3, 1e-9) * scale)


@cache
def exact(name):
    case = BY_NAME[name]
    model, batches = case.parts()
    f, theta = dense.objective(model, case.loss, batches, case.counts)
    h, g = dense.difference_hessian(f, theta), dense.gradient(f, theta)
    return model, h, g, f(theta).item()


@pytest.mark.parametrize("name", ["softmax regression", "mlp", "conv bn", "uneven batches"])
def test_the_two_oracles_agree(name):
    case = BY_NAME[name]
    model, batches = case.parts()
    f, theta = dense.objective(model, case.loss, batches, case.counts)
    torch.testing.assert_close(
        dense.functorch_hessian(f, theta), exact(name)[1], rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_whole_estimate_agrees_with_dense_hessian(case, dtype, rtol):
    _, h, g, value = exact(case.name)
    values = torch.linalg.eigvalsh(h)
    estimate = probe(case.problem(dtype))
    norm = values.abs().max().item()
    assert estimate.n_params == len(values)
    assert estimate.n_terms == sum(case.counts)
    assert estimate.converged
    close(estimate.loss, value, rtol, 1.0)
    close(estimate.grad_norm, g.norm().item(), rtol, 1.0)
    close(estimate.lambda_max.value, values[-1].item(), rtol, norm)
    close(estimate.lambda_min.value, values[0].item(), rtol, norm)
    close(estimate.hessian_norm, norm, rtol, norm)
    close(estimate.trace.value, h.trace().item(), rtol, norm * 100)
    close(estimate.frobenius_norm.value, h.norm().item(), rtol, norm)
    ranked = sorted(values.abs().tolist(), reverse=True)
    assert len(estimate.eigenvalues) == min(5, len(ranked))
    for e, magnitude in zip(estimate.eigenvalues, ranked, strict=False):
        close(abs(e.value), magnitude, rtol, norm)
    if case.name == "zero gradient":
        assert estimate.kappa is None
        assert estimate.kappa_reason == "undefined: the gradient is exactly zero"
    else:
        close(estimate.kappa, norm / g.square().sum().item(), 2 * rtol, 1.0)


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_blocks_agree_with_diagonal_blocks_of_dense_hessian(case, dtype, rtol):
    model, h, g, _ = exact(case.name)
    problem = case.problem(dtype)
    estimate = probe(problem, Partition.by_module(problem))
    where = dense.positions(model, dense.module_of)
    assert [b.name for b in estimate.blocks] == list(where)
    scale = torch.linalg.matrix_norm(h, 2).item()
    for block in estimate.blocks:
        index = where[block.name]
        values = torch.linalg.eigvalsh(h[index][:, index])
        close(block.grad_norm, g[index].norm().item(), rtol, 1.0)
        close(block.trace.value, values.sum().item(), rtol, 100 * scale)
        assert block.n_params == len(index)
        if block.state == "not_reached":
            assert not g[index].any() and not h[index].any()
            assert block.kappa is None and "not reached" in block.kappa_reason
            continue
        assert block.converged
        close(block.lambda_max, values[-1].item(), rtol, scale)
        close(block.lambda_min, values[0].item(), rtol, scale)
        if block.grad_norm > 0:
            close(
                block.kappa,
                values.abs().max().item() / g[index].square().sum().item(),
                2 * rtol,
                1.0,
            )
    assert math.fsum(b.trace.value for b in estimate.blocks) == pytest.approx(
        estimate.trace.value, rel=1e-9, abs=1e-9 * scale
    )
    assert math.fsum(b.grad_norm**2 for b in estimate.blocks) == pytest.approx(
        estimate.grad_norm**2, rel=1e-5
    )


def test_frozen_is_not_differentiated_and_unused_is_listed():
    problem = BY_NAME["frozen and unused"].problem()
    estimate = probe(problem)
    states = {block.name: block.state for block in estimate.blocks}
    assert states == {"body": "reached", "head": "reached", "aux": "not_reached"}
    assert estimate.warnings == (
        "not reached by the loss, κ undefined there: aux.weight, aux.bias",
    )


def test_idle_expert_is_not_reached_though_its_gradient_exists():
    estimate = probe(BY_NAME["idle expert"].problem())
    states = {block.name: block.state for block in estimate.blocks}
    assert states["experts.2"] == "not_reached"
    assert states["experts.0"] == states["experts.1"] == states["gate"] == "reached"
    assert any("experts.2" in words and "batch" in words for words in estimate.warnings)


class ElevenExperts(nn.Module):
    """Expert 1 is called and masked out, expert 10 is never called, all others get every row."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(11))

    def forward(self, x):
        return sum((i != 1) * expert(x) for i, expert in enumerate(self.experts[:10]))


def test_an_idle_block_is_told_beside_a_missed_one_whose_name_begins_alike():
    batch = torch.randn(8, 4), torch.randint(3, (8,))
    problem = Problem.from_module(ElevenExperts(), "cross_entropy", [batch])
    estimate = probe(problem, top_k=1, trace=False, frobenius=False)
    states = {block.name: block.state for block in estimate.blocks}
    assert {n for n, s in states.items() if s == "not_reached"} == {"experts.1", "experts.10"}
    assert estimate.warnings == (
        "not reached by the loss, κ undefined there: experts.10.weight, experts.10.bias",
        "not reached by this batch (gradient and Hessian rows zero): experts.1",
    )


def test_relu_blocks_are_zero_though_the_whole_is_not():
    problem = BY_NAME["relu with linear loss"].problem()
    graph = GradientGraph(problem)
    assert graph.state_of("2.bias") == "constant_gradient"
    estimate = probe(problem)
    assert [block.hessian_norm for block in estimate.blocks] == [0.0, 0.0]
    assert [block.kappa for block in estimate.blocks] == [0.0, 0.0]
    assert estimate.kappa > 0.1


def test_tied_parameter_counts_once_and_names_both():
    estimate = probe(BY_NAME["tied gpt"].problem())
    emb = next(block for block in estimate.blocks if block.name == "emb")
    assert emb.parameters == ("emb.weight", "head.weight")
    assert "head" not in [block.name for block in estimate.blocks]
