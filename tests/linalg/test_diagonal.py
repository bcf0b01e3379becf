"""The diagonal estimator: exact where it must be, unbiased and honest elsewhere."""

import pytest
import torch

from homotopy_cli.errors import NonFiniteError
from homotopy_cli.linalg.diagonal import diagonal
from homotopy_cli.linalg.hutchinson import LowRank
from homotopy_cli.linalg.operator import DenseOperator
from homotopy_cli.linalg.vectors import generator


def matrix(n=60, seed=0):
    a = torch.randn(n, n, generator=generator(seed), dtype=torch.float64)
    return a + a.T


def test_diagonal_matrix_is_exact_from_two_probes():
    values = torch.linspace(-2, 3, 30, dtype=torch.float64)
    found = diagonal(DenseOperator(torch.diag(values)), generator=generator(0), n_probes=2)
    torch.testing.assert_close(found.value, values)
    assert found.stderr.max() < 1e-12


def test_errors_follow_the_stated_standard_errors():
    a = matrix()
    found = diagonal(DenseOperator(a), generator=generator(1), n_probes=400)
    z = (found.value - a.diagonal()) / found.stderr
    assert z.abs().max() < 5.0
    assert 0.6 < z.square().mean() < 1.6
    off = (a.square().sum(1) - a.diagonal().square()) / 400
    torch.testing.assert_close(found.stderr, off.sqrt(), rtol=0.25, atol=0.0)
    assert found.n_probes == 400


def test_known_pairs_lower_the_error_and_keep_it_unbiased():
    a = matrix()
    u = torch.randn(60, generator=generator(5), dtype=torch.float64)
    a = a + 300.0 * torch.outer(u, u) / (u @ u)
    values, vectors = torch.linalg.eigh(a)
    known = LowRank(values[-1:], vectors[:, -1:].T.contiguous())
    plain = diagonal(DenseOperator(a), generator=generator(2), n_probes=50)
    helped = diagonal(DenseOperator(a), generator=generator(2), n_probes=50, known=known)
    assert helped.stderr.norm() < 0.75 * plain.stderr.norm()
    assert ((helped.value - a.diagonal()) / helped.stderr).abs().max() < 5.0


def test_sum_is_hutchinsons_trace():
    a = matrix()
    found = diagonal(DenseOperator(a), generator=generator(3), n_probes=8)
    draw, samples = generator(3), []
    for _ in range(8):
        z = 2.0 * torch.randint(0, 2, (60,), generator=draw, dtype=torch.int8).double() - 1.0
        samples.append(z @ a @ z)
    torch.testing.assert_close(found.value.sum(), torch.stack(samples).mean())


def test_refusals():
    with pytest.raises(ValueError, match="at least 2 probes, got 1"):
        diagonal(DenseOperator(matrix()), generator=generator(0), n_probes=1)
    with pytest.raises(NonFiniteError, match="random probe holds NaN"):
        diagonal(DenseOperator(matrix() * torch.inf), generator=generator(0), n_probes=2)
