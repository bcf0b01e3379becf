"""The Gauss-Newton matrix: closed forms, an independent Jacobian, and what it must be."""

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from cases import BY_NAME
from oracles import closed_form, dense
from torch.func import functional_call, hessian, jacrev

from homotopy_cli.curvature.api import probe
from homotopy_cli.curvature.exact import full_hessian
from homotopy_cli.curvature.ggn import GGNGraph
from homotopy_cli.curvature.validate import validate
from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem

DIFFERENCES = ("central_difference", "forward_difference")
METHODS = ("double_backward", "forward_over_reverse", *DIFFERENCES)


def problem_of(name, loss, **options):
    model, batches = BY_NAME[name].parts()
    if loss == "mse":
        batches = [(x, y.reshape(len(x), -1)) for x, y in batches]
    return model, batches, Problem.from_module(model, loss, batches, **options)


def rows(graph):
    return torch.stack([graph.hvp(e) for e in torch.eye(graph.n, dtype=graph.dtype)])


def jacobian_oracle(model, batches, criterion):
    """Σ_b w_b J' H_out J by torch.func.jacrev and torch.func.hessian of the criterion alone."""
    params = {n: p.detach() for n, p in model.named_parameters()}
    total, terms = 0.0, sum(len(y) for _, y in batches)
    for x, y in batches:
        jac = jacrev(lambda p, x=x: functional_call(model, p, (x,)))(params)
        out = functional_call(model, params, (x,))
        j = torch.cat([jac[n].reshape(out.numel(), -1) for n in params], dim=1)
        h = hessian(lambda z, y=y: criterion(z, y))(out.detach()).reshape(out.numel(), -1)
        total = total + len(y) / terms * j.T @ h @ j
    return total.detach()


@pytest.mark.parametrize("method", METHODS)
def test_softmax_regression_closed_form(method):
    """A (diag p - pp') A': the model is linear, so G = H."""
    model, batches, problem = problem_of("softmax regression", "cross_entropy")
    wanted = closed_form.softmax_regression(batches[0][0].numpy(), model.weight.detach().numpy())
    found = rows(GGNGraph(problem, method=method))
    rtol = 1e-6 if method in DIFFERENCES else 1e-11
    np.testing.assert_allclose(found.numpy(), wanted, rtol=rtol, atol=1e-2 * rtol)


def test_linear_regression_on_uneven_batches_closed_form():
    _, batches, problem = problem_of("uneven batches", "mse")
    x = torch.cat([b[0] for b in batches]).numpy()
    found = rows(GGNGraph(problem))
    np.testing.assert_allclose(found.numpy(), closed_form.linear_regression(x), rtol=1e-11)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mlp", "conv bn"])
def test_agrees_with_the_written_out_jacobian(name, method):
    model, batches, problem = problem_of(name, "cross_entropy")
    wanted = jacobian_oracle(model, batches, F.cross_entropy)
    found = rows(GGNGraph(problem, method=method))
    rtol = 1e-6 if method in DIFFERENCES else 1e-11
    assert (found - wanted).norm() <= rtol * wanted.norm()


@pytest.mark.parametrize("options", [{}, {"microbatch": 6}])
@pytest.mark.parametrize("keep_graph", [True, False])
def test_gradient_loss_and_rebuilding(options, keep_graph):
    model, batches, problem = problem_of("mlp", "cross_entropy", **options)
    f, theta = dense.objective(model, BY_NAME["mlp"].loss, batches, (20,))
    graph = GGNGraph(problem, keep_graph=keep_graph)
    assert graph.loss == pytest.approx(f(theta).item(), rel=1e-12)
    torch.testing.assert_close(graph.grad, dense.gradient(f, theta), rtol=1e-10, atol=1e-12)
    wanted = jacobian_oracle(model, batches, F.cross_entropy)
    assert (rows(graph) - wanted).norm() <= 1e-11 * wanted.norm()


def test_block_product_is_the_diagonal_block():
    problem = problem_of("mlp", "cross_entropy")[2]
    graph = GGNGraph(problem)
    whole = rows(graph)
    names = ("0.bias", "2.weight")
    where = torch.cat([torch.arange(graph.n)[graph.slice_of(name)] for name in names])
    v = torch.randn(len(where), dtype=torch.float64)
    torch.testing.assert_close(graph.block_hvp(names, v), whole[where][:, where] @ v)


def test_positive_semidefinite_where_the_hessian_is_not():
    problem = problem_of("mlp", "cross_entropy")[2]
    estimate = probe(problem, curvature="ggn")
    assert estimate.curvature == "ggn"
    floor = -1e-12 * estimate.hessian_norm
    assert all(e.value >= floor - e.residual for e in estimate.eigenvalues)
    assert all(block.lambda_min >= -block.residual for block in estimate.blocks)
    assert full_hessian(problem, curvature="ggn").diagonal().min() >= 0.0
    assert probe(problem).lambda_min.value < -1e-3


def test_whole_estimate_validates_against_the_full_matrix():
    problem = problem_of("conv bn", "cross_entropy")[2]
    partition = Partition.by_module(problem)
    p = torch.rand(problem.n_params, dtype=torch.float64) + 0.1
    estimate = probe(problem, partition, curvature="ggn", preconditioner=p)
    table = validate(problem, estimate, partition, preconditioner=p)
    assert [row.quantity for row in table if not row.within_bound] == []
    assert {"preconditioned_sharpness", "lambda_max", "trace"} <= {row.quantity for row in table}
    assert estimate.checks.symmetry_error <= estimate.checks.symmetry_bound
    assert estimate.checks.difference_error is None and not estimate.checks.kink
    whole = full_hessian(problem)
    assert abs(torch.linalg.eigvalsh(whole)[-1] - estimate.lambda_max.value) > 1e-3


def test_cross_entropy_gauss_newton_of_a_tied_gpt():
    """Oracle: the Hessian of the loss with the outputs' own curvature held, by differences.

    G v is the derivative at ε = 0 of J(θ)' ∇c(z(θ) + ε Jv), with J' from one reverse pass and
    Jv from central differences of the outputs.
    """
    model, batches = BY_NAME["tied gpt"].parts()
    tokens, targets = batches[0]
    problem = Problem.from_module(model, "next_token", [(tokens, targets)])
    graph = GGNGraph(problem)
    v = torch.randn(graph.n, dtype=torch.float64)
    params = {n: p.detach() for n, p in model.named_parameters()}
    sizes = [p.numel() for p in params.values()]

    def outputs(scale):
        parts = v.split(sizes)
        moved = {
            n: p + scale * part.view(p.shape)
            for (n, p), part in zip(params.items(), parts, strict=True)
        }
        return functional_call(model, moved, (tokens,), tie_weights=True).detach()

    h = 1e-5
    jv = (outputs(h) - outputs(-h)) / (2 * h)
    out = model(tokens)
    prob = out.detach().softmax(-1)
    bent = (prob * jv - prob * (prob * jv).sum(-1, keepdim=True)) / targets.numel()
    wanted = torch.autograd.grad(out, list(model.parameters()), grad_outputs=bent)
    wanted = torch.cat([w.reshape(-1) for w in wanted])
    assert (graph.hvp(v) - wanted).norm() <= 1e-7 * wanted.norm()


def test_a_loss_without_a_seam_is_refused():
    with pytest.raises(ProblemError, match="cannot be split into outputs") as caught:
        probe(BY_NAME["mlp"].problem(), curvature="ggn")
    assert "--curvature hessian" in caught.value.hint


def test_outputs_that_are_no_tensor_are_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 2)

        def forward(self, x):
            return self.a(x), x

    class First(nn.Module):
        def forward(self, outputs, target):
            return F.mse_loss(outputs[0], target)

    problem = Problem.from_module(Two(), First(), [(torch.randn(4, 3), torch.randn(4, 2))])
    with pytest.raises(ProblemError, match="one tensor of outputs, the model returns tuple"):
        probe(problem, curvature="ggn")


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return grad * (1 - y * y)


class OnceNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.b(OnceOnly.apply(self.a(x)))


def test_falls_back_to_differences_of_the_outputs():
    net = OnceNet().double()
    batch = (torch.randn(6, 3).double(), torch.randn(6, 1).double())
    graph = GGNGraph(Problem.from_module(net, "mse", [batch]))
    v = torch.randn(graph.n, dtype=torch.float64)
    found = graph.hvp(v)
    assert graph.method == "central_difference" and "once_differentiable" in graph.fallback_reason
    twin = nn.Sequential(net.a, nn.Tanh(), net.b)
    wanted = GGNGraph(Problem.from_module(twin, "mse", [batch])).hvp(v)
    assert (found - wanted).norm() <= 1e-8 * wanted.norm()


def test_linear_criterion_and_unused_parameters():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    net.spare = nn.Linear(2, 2).double()
    net.forward = lambda x: net[2](torch.tanh(net[0](x)))

    class Mean(nn.Module):
        def forward(self, outputs, target):
            return (outputs * target).mean()

    batch = (torch.randn(5, 3).double(), torch.randn(5, 2).double())
    problem = Problem.from_module(net, Mean(), [batch])
    graph = GGNGraph(problem)
    assert not graph.hvp(torch.ones(graph.n, dtype=torch.float64)).any()
    assert graph.state_of("0.weight") == "constant_gradient"
    assert graph.state_of("spare.weight") == "not_reached"
    assert graph.grad.any()
