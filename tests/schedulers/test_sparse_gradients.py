"""nn.Embedding(sparse=True): the same numbers as the dense module gives."""

import pytest
import torch
from torch import nn

from homotopy_cli import CurvatureEstimator, HomotopyLR, Problem
from homotopy_cli.curvature.ggn import gradient_graph

# torch's own, of its optimizers' sparse steps
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")


class Words(nn.Module):
    def __init__(self, sparse, kind=nn.Embedding):
        super().__init__()
        torch.manual_seed(0)
        self.words = kind(20, 4, sparse=sparse)
        self.out = nn.Linear(4, 3)
        self.double()

    def forward(self, x):
        found = self.words(x)
        return self.out(torch.tanh(found.mean(1) if found.ndim == 3 else found))


def data(n=1, rows=32):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randint(0, 20, (rows, 5), generator=generator),
            torch.randint(0, 3, (rows,), generator=generator),
        )
        for _ in range(n)
    ]


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=20.0),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1.0),
}
SIGNALS = ["auto", "kappa", "directional", "secant", "forward", "trust_ratio"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("signal", SIGNALS)
def test_a_sparse_embedding_trains_at_the_dense_ones_rates(optimizer, signal):
    ends = []
    for sparse in (True, False):
        model = Words(sparse)
        chosen = OPTIMIZERS[optimizer](model.parameters())
        scheduler = HomotopyLR(
            chosen,
            model,
            nn.CrossEntropyLoss(),
            signal=signal,
            signal_fraction=True,
            burst=8,
            curvature_target=1.0 if signal == "kappa" else None,
        )
        used = []
        for x, y in data(12):
            chosen.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            scheduler.update_curvature(x, y)
            used.append(scheduler.get_last_lr()[0])
            chosen.step()
            scheduler.step()
        ends.append([*used, scheduler.ceiling, scheduler.last_probe["signal_fraction"]])
        assert scheduler.n_failed_probes == 0 and len(set(used)) > 1
    assert ends[0] == pytest.approx(ends[1], rel=1e-6)


def test_sparse_adam_whose_steps_are_watched():
    model = Words(True)
    optimizer = torch.optim.SparseAdam(model.words.parameters(), lr=0.01)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss())
    for x, y in data(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        scheduler.update_curvature(x, y)
        optimizer.step()
        scheduler.step()
    assert scheduler.signal == "trust_ratio" and scheduler.n_failed_probes == 0
    assert "trust_ratio" in scheduler.last_probe


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
@pytest.mark.parametrize("method", ["auto", "central_difference"])
def test_products_are_those_of_the_dense_module(kind, curvature, method):
    """EmbeddingBag has no second derivative, so that all of its products are differences."""
    found = []
    for sparse in (True, False):
        problem = Problem.from_module(Words(sparse, kind), "cross_entropy", data())
        graph = gradient_graph(problem, curvature, method=method)
        v = torch.linspace(-1.0, 1.0, graph.n, dtype=torch.float64)
        found.append((graph.grad, graph.hvp(v)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("method", ["lanczos", "hutchinson"])
def test_the_one_number_interface_takes_it_too(method):
    ((x, y),) = data()
    loss = nn.CrossEntropyLoss()
    kinds = (True, False)
    found = [CurvatureEstimator(Words(s), loss, method=method).estimate(x, y) for s in kinds]
    assert found[0] == pytest.approx(found[1], rel=1e-6)
