"""Products with H: against closed forms and differences, by every engine, in every state."""

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from cases import BY_NAME
from oracles import closed_form, dense

from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.errors import NonFiniteError, ProblemError
from homotopy_cli.problems.problem import Problem

METHODS = ("double_backward", "forward_over_reverse", "central_difference")


def rows(graph):
    return torch.stack([graph.hvp(e) for e in torch.eye(graph.n, dtype=graph.dtype)])


def test_linear_regression_closed_form():
    case = BY_NAME["linear regression"]
    wanted = closed_form.linear_regression(case.parts()[1][0][0].numpy())
    found = rows(GradientGraph(case.problem()))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12, atol=1e-14)


def test_logistic_regression_closed_form():
    case = BY_NAME["logistic"]
    model, batches = case.parts()
    wanted = closed_form.logistic_regression(
        batches[0][0].numpy(), model.weight.detach().numpy()[0]
    )
    found = rows(GradientGraph(case.problem()))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12, atol=1e-14)


def test_softmax_regression_closed_form():
    case = BY_NAME["softmax regression"]
    model, batches = case.parts()
    wanted = closed_form.softmax_regression(batches[0][0].numpy(), model.weight.detach().numpy())
    found = rows(GradientGraph(case.problem()))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "name", ["mlp", "conv bn", "tied gpt", "ignored tokens", "frozen and unused", "encoder"]
)
def test_engines_agree_with_differences_of_the_gradient(name, method):
    case = BY_NAME[name]
    model, batches = case.parts()
    f, theta = dense.objective(model, case.loss, batches, case.counts)
    v = torch.randn(len(theta), dtype=torch.float64)
    h = 1e-3 / v.norm()
    near = dense.gradient(f, theta + h * v) - dense.gradient(f, theta - h * v)
    far = dense.gradient(f, theta + 2 * h * v) - dense.gradient(f, theta - 2 * h * v)
    wanted = (8 * near - far) / (12 * h)
    graph = GradientGraph(case.problem(), method=method)
    found = graph.hvp(v)
    rtol = 1e-6 if method == "central_difference" else 1e-9
    assert (found - wanted).norm() <= rtol * wanted.norm()
    assert graph.method == method and graph.n_hvp == 1.0
    torch.testing.assert_close(graph.grad, dense.gradient(f, theta), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_block_product_is_the_diagonal_block(method):
    case = BY_NAME["tied gpt"]
    graph = GradientGraph(case.problem(), method=method)
    names = ("norm.weight", "qkv.bias")
    v = torch.randn(graph.problem.numels[names[0]] + graph.problem.numels[names[1]]).double()
    padded = torch.zeros(graph.n, dtype=torch.float64)
    sizes = [graph.problem.numels[name] for name in names]
    for name, part in zip(names, v.split(sizes), strict=True):
        padded[graph.slice_of(name)] = part
    wanted = graph.gather(names, GradientGraph(case.problem()).hvp(padded))
    found = graph.block_hvp(names, v)
    assert (found - wanted).norm() <= 1e-6 * wanted.norm()
    assert graph.n_hvp == pytest.approx(len(v) / graph.n)


@pytest.mark.parametrize("name", ["uneven batches", "ignored tokens", "relu with linear loss"])
def test_rebuilding_the_graph_gives_the_same_product(name):
    case = BY_NAME[name]
    kept = GradientGraph(case.problem())
    rebuilt = GradientGraph(case.problem(), keep_graph=False)
    v = torch.randn(kept.n, dtype=torch.float64)
    torch.testing.assert_close(rebuilt.hvp(v), kept.hvp(v), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(rebuilt.grad, kept.grad, rtol=1e-12, atol=1e-14)
    assert [rebuilt.state_of(n) for n in rebuilt.names] == [kept.state_of(n) for n in kept.names]


def test_graph_is_built_once_for_all_products():
    calls = []

    def loss(model, batch):
        calls.append(1)
        return F.mse_loss(model(batch[0]), batch[1])

    problem = Problem.from_module(nn.Linear(3, 2), loss, [(torch.randn(5, 3), torch.randn(5, 2))])
    calls.clear()
    graph = GradientGraph(problem)
    for _ in range(7):
        graph.hvp(torch.randn(graph.n))
    assert len(calls) == 1


class OnceOnly(torch.autograd.Function):
    """tanh whose backward cannot be differentiated."""

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


def once_problem():
    net = OnceNet().double()
    batch = (torch.randn(6, 3).double(), torch.randn(6, 1).double())
    return net, batch, Problem.from_module(net, "mse", [batch])


def test_auto_falls_back_to_differences_and_says_why():
    net, batch, problem = once_problem()
    graph = GradientGraph(problem)
    v = torch.randn(graph.n, dtype=torch.float64)
    found = graph.hvp(v)
    assert graph.method == "central_difference"
    assert "once_differentiable" in graph.fallback_reason
    twin = nn.Sequential(net.a, nn.Tanh(), net.b)
    wanted = GradientGraph(Problem.from_module(twin, "mse", [batch])).hvp(v)
    assert (found - wanted).norm() <= 1e-7 * wanted.norm()


def test_double_backward_when_asked_for_refuses_instead():
    _, _, problem = once_problem()
    with pytest.raises(ProblemError, match="cannot be differentiated twice") as caught:
        GradientGraph(problem, method="double_backward")
    assert "--hvp central_difference" in caught.value.hint


def test_ctc_loss_has_no_second_derivative_and_is_measured_anyway():
    net = nn.Linear(4, 3).double()
    x = torch.randn(5, 2, 4).double()

    def loss(model, batch):
        target = torch.tensor([[1, 2], [2, 1]])
        return F.ctc_loss(model(batch[0]).log_softmax(-1), target, (5, 5), (2, 2))

    loss.count = lambda batch: 2
    graph = GradientGraph(Problem.from_module(net, loss, [(x,)]))
    assert graph.hvp(torch.ones(graph.n, dtype=torch.float64)).isfinite().all()
    assert graph.method == "central_difference" and "ctc" in graph.fallback_reason


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_bitwise_what_they_were(method):
    model, batches = BY_NAME["conv bn"].parts()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    problem = Problem.from_module(model, "cross_entropy", batches, mode="train")
    graph = GradientGraph(problem, method=method)
    graph.hvp(torch.randn(graph.n, dtype=torch.float64))
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert all(p.data_ptr() == problem.params[n].data_ptr() for n, p in model.named_parameters())
    assert not model.training


def test_constant_loss_reaches_nothing_and_its_product_is_zero():
    problem = Problem.from_closure({"w": torch.ones(3)}, lambda p: torch.tensor(2.0))
    graph = GradientGraph(problem)
    assert graph.loss == 2.0 and not graph.grad.any()
    assert graph.state_of("w") == "not_reached"
    assert not graph.hvp(torch.ones(3)).any()


def test_nan_loss_is_refused():
    problem = Problem.from_closure({"w": torch.ones(3)}, lambda p: (p["w"] - 2).log().sum())
    with pytest.raises(NonFiniteError, match="the loss is nan"):
        GradientGraph(problem)


def test_infinite_gradient_is_refused_by_name():
    problem = Problem.from_closure({"w": torch.zeros(3)}, lambda p: p["w"].sqrt().sum())
    with pytest.raises(NonFiniteError, match="gradient of 'w' holds 3 non-finite values of 3"):
        GradientGraph(problem)


def test_in_place_change_between_graph_and_product_is_explained():
    w = torch.ones(3)
    graph = GradientGraph(Problem.from_closure({"w": w}, lambda p: p["w"].pow(4).sum()))
    w.add_(1.0)
    with pytest.raises(ProblemError, match="modified by an inplace operation") as caught:
        graph.hvp(torch.ones(3))
    assert "before optimizer.step()" in caught.value.hint
