"""A parameter that the loss uses past its module would lack a part of its gradient: refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.problem import Problem


class Tied(nn.Module):
    """An output weight tied to the embedding: by attribute, by a tuple, or recomputed."""

    def __init__(self, how):
        super().__init__()
        self.emb, self.mix, self.how = nn.Embedding(7, 4), nn.Linear(4, 4), how
        self.out = nn.Linear(4, 7, bias=False)
        if how == "torch":
            self.out.weight = self.emb.weight
        self.kept = (self.emb.weight,)

    def forward(self, tokens):
        hidden = self.mix(self.emb(tokens))
        if self.how == "tuple":
            return hidden @ self.kept[0].T
        if self.how == "checkpoint":
            return checkpoint(self.out, hidden, use_reentrant=True)
        return hidden @ self.kept[0].detach().T if self.how == "detach" else self.out(hidden)


def tokens():
    return torch.arange(6), torch.tensor([1, 2, 3, 4, 5, 6])


def captured_penalty(model):
    kept = list(model.parameters())
    return lambda m, batch: (
        F.cross_entropy(m(batch[0]), batch[1]) + sum(p.square().sum() for p in kept)
    )


def wanted_gradient(model, loss):
    """Oracle: the optimizer's own, by backward() on a copy."""
    twin = copy.deepcopy(model)
    loss(twin).backward()
    return torch.cat([p.grad.reshape(-1) for p in twin.parameters() if p.grad is not None])


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_a_weight_tied_through_a_tuple_is_named(curvature):
    from homotopy_cli.curvature.ggn import gradient_graph

    problem = Problem.from_module(Tied("tuple"), "cross_entropy", [tokens()])
    with pytest.raises(ProblemError, match=r'parameter "emb\.weight" past the module') as refused:
        gradient_graph(problem, curvature)
    assert "inside forward or the loss" in refused.value.hint


def test_a_penalty_on_captured_parameters_names_them():
    model = Tied("torch")
    problem = Problem.from_module(model, captured_penalty(model), [tokens()])
    with pytest.raises(ProblemError, match=r'"emb\.weight", "mix\.bias", "mix\.weight"'):
        problem.batch_loss(0)


def test_frozen_captured_parameters_have_no_gradient_to_miss():
    model = Tied("torch")
    model.emb.weight.requires_grad_(False)
    kept = [model.emb.weight]
    problem = Problem.from_module(
        model,
        lambda m, b: F.cross_entropy(m(b[0]), b[1]) + sum(p.square().sum() for p in kept),
        [tokens()],
    )
    GradientGraph(problem)


def test_a_closure_that_keeps_its_parameters_is_refused():
    w = torch.ones(3, requires_grad=True)
    problem = Problem.from_closure({"w": w}, lambda params: (params["w"] * w).sum())
    with pytest.raises(ProblemError, match='parameter "w" past'):
        problem.batch_loss(0)


@pytest.mark.parametrize("how", ["torch", "detach", "checkpoint"])
def test_what_training_differentiates_too_is_measured(how):
    model = Tied(how).double()
    x, y = tokens()
    graph = GradientGraph(Problem.from_module(model, "cross_entropy", [(x, y)]))
    reached = [name for name in graph.names if graph.state_of(name) == "reached"]
    wanted = wanted_gradient(model, lambda m: F.cross_entropy(m(x), y))
    torch.testing.assert_close(graph.gather(reached, graph.grad), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.LSTM(4, 4, 2, batch_first=True),
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
        lambda: nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)),
        lambda: nn.utils.weight_norm(nn.Linear(4, 4)),
        lambda: nn.utils.spectral_norm(nn.Linear(4, 4)),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_layers_that_keep_or_rebuild_their_weights_are_measured(layer):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer()

        def forward(self, x):
            attends = isinstance(self.layer, nn.MultiheadAttention)
            out = self.layer(x, x, x) if attends else self.layer(x)
            return out[0] if isinstance(out, tuple) else out

    batch = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    problem = Problem.from_module(Net(), "mse", [batch])
    GradientGraph(problem)
    with problem.measuring():  # and inside another measurement of the same model
        GradientGraph(problem.in_float64())


def test_an_evaluation_without_a_graph_does_not_end_the_search():
    model = nn.Linear(4, 3)
    batch = torch.randn(8, 4), torch.randint(3, (8,))
    problem = Problem.from_module(model, captured_penalty(model), [batch])
    with torch.no_grad():
        problem.batch_loss(0)
    with pytest.raises(ProblemError, match="past the module"):
        problem.batch_loss(0)
