"""What is true: scipy's eigsh on exact float64 products; no code shared with the estimators."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from tests.benchmarks.models import Case, criterion


@dataclass(frozen=True)
class Truth:
    """Reference values of one case."""

    n_params: int
    top: np.ndarray  # (10,) largest by magnitude, by magnitude
    largest: np.ndarray  # (10,) algebraically largest, descending
    trace: float
    trace_error: float  # standard error
    frobenius: float
    layers: tuple[float, ...]  # λ_max of each layer's block


def truth(case: Case, probes: int = 200) -> Truth:
    """Return the reference values; minutes for the larger cases."""
    model = copy.deepcopy(case.model).double()
    x, y = (t.double() if t.is_floating_point() else t for t in case.batch)
    params = list(model.parameters())
    grads = torch.autograd.grad(criterion(model(x), y), params, create_graph=True)

    def product(indices: list[int]) -> LinearOperator:
        sizes = [params[i].numel() for i in indices]

        def matvec(v: np.ndarray) -> np.ndarray:
            parts = torch.from_numpy(np.ascontiguousarray(v.reshape(-1))).split(sizes)
            vectors = [p.view(params[i].shape) for p, i in zip(parts, indices, strict=True)]
            rows = torch.autograd.grad(
                [grads[i] for i in indices],
                [params[i] for i in indices],
                grad_outputs=vectors,
                retain_graph=True,
                materialize_grads=True,
            )
            return torch.cat([r.reshape(-1) for r in rows]).numpy()

        return LinearOperator((sum(sizes),) * 2, matvec=matvec, dtype=np.float64)

    whole = product(list(range(len(params))))
    start = np.random.default_rng(0).standard_normal(case.n_params)
    values, vectors = eigsh(whole, k=40, which="LM", tol=1e-8, v0=start)
    largest = eigsh(whole, k=10, which="LA", tol=1e-8, v0=start, return_eigenvectors=False)
    names = [name for name, _ in model.named_parameters()]
    layers = []
    for name in case.layers:
        block = product([names.index(name)])
        v0 = np.random.default_rng(1).standard_normal(block.shape[0])
        found = eigsh(block, k=1, which="LA", tol=1e-8, v0=v0, return_eigenvectors=False)
        layers.append(float(found[0]))
    trace, error, frobenius = _moments(whole, values, vectors, probes)
    return Truth(
        case.n_params,
        values[np.argsort(-np.abs(values))][:10],
        np.sort(largest)[::-1],
        trace,
        error,
        frobenius,
        tuple(layers),
    )


def _moments(
    whole: LinearOperator, values: np.ndarray, vectors: np.ndarray, probes: int
) -> tuple[float, float, float]:
    """(tr H, its standard error, ‖H‖_F) from random signs off the largest eigenvectors."""
    n = whole.shape[0]
    random, samples, squares = np.random.default_rng(2), [], []
    for _ in range(probes):
        z = random.choice((-1.0, 1.0), size=n)
        z -= vectors @ (vectors.T @ z)
        product = whole.matvec(z)
        samples.append(z @ product)
        squares.append(product @ product)
    return (
        float(values.sum() + np.mean(samples)),
        float(np.std(samples) / np.sqrt(probes)),
        float(np.sqrt((values**2).sum() + np.mean(squares))),
    )
