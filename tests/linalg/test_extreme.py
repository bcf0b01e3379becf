"""Extreme eigenvalues against numpy and scipy, with bounds that hold and honest flags."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator as ScipyOperator
from scipy.sparse.linalg import eigsh

from homotopy_cli.linalg.extreme import extreme_eigenvalues
from homotopy_cli.linalg.operator import DenseOperator
from homotopy_cli.linalg.thick_restart import restarted_eigenvalues
from homotopy_cli.linalg.vectors import generator


def with_spectrum(values, seed=0, dtype=torch.float64):
    values = torch.as_tensor(values, dtype=torch.float64)
    n = len(values)
    q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator(seed))).Q
    return DenseOperator(((q * values) @ q.T).to(dtype))


def network_like(n=1500):
    """A bulk at zero, ten outliers above and three below, as trained networks have."""
    bulk = 0.05 * np.random.default_rng(0).standard_normal(n - 13)
    return np.concatenate([bulk, np.geomspace(3, 150, 10), [-4.0, -3.0, -2.5]])


def test_both_ends_agree_with_scipy():
    operator = with_spectrum(network_like())
    found = extreme_eigenvalues(operator, generator=generator(1), k=3)
    scipy = ScipyOperator((operator.n, operator.n), matvec=operator.matrix.numpy().__matmul__)
    ends = [eigsh(scipy, k=1, which=w, return_eigenvectors=False)[0] for w in ("LA", "SA")]
    assert all(pair.converged for pair in found.pairs)
    assert found.largest.value == pytest.approx(ends[0], rel=1e-5)
    assert found.smallest.value == pytest.approx(ends[1], rel=1e-3)
    for pair in found.pairs:
        product = operator.matrix @ pair.vector
        assert torch.linalg.vector_norm(product - pair.value * pair.vector) <= pair.residual
    assert found.n_matvecs < 60


def test_close_opposite_ends_keep_their_signs():
    found = extreme_eigenvalues(with_spectrum([2.9, -3.0, 0.5, 0.53]), generator=generator(0))
    assert [pair.value for pair in found.pairs] == pytest.approx([-3.0, 2.9], rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_identity_has_k_copies_and_no_more_than_n(k):
    found = extreme_eigenvalues(with_spectrum([2.0] * 5), generator=generator(0), k=k)
    assert [pair.value for pair in found.pairs] == pytest.approx([2.0] * min(k, 5), rel=1e-12)
    vectors = torch.stack([pair.vector for pair in found.pairs])
    gram = vectors @ vectors.T
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=gram.dtype), rtol=0, atol=1e-10)


def test_zero_operator():
    found = extreme_eigenvalues(DenseOperator(torch.zeros(7, 7)), generator=generator(0))
    assert found.largest.value == 0.0 and found.largest.residual == 0.0
    assert found.largest.converged


def test_one_by_one():
    found = extreme_eigenvalues(DenseOperator(torch.tensor([[-3.0]])), generator=generator(0), k=4)
    assert [pair.value for pair in found.pairs] == [-3.0]


def test_missed_copies_are_found_on_request():
    operator = with_spectrum(np.concatenate([[9.0, 9.0, 9.0, -8.0, -8.0, 4.0], np.zeros(194)]))
    plain = extreme_eigenvalues(operator, generator=generator(0), k=3)
    assert [pair.value for pair in plain.pairs] == pytest.approx([9, -8, 4], abs=1e-6)
    full = extreme_eigenvalues(operator, generator=generator(0), k=5, multiplicity=True)
    assert [pair.value for pair in full.pairs] == pytest.approx([9, 9, 9, -8, -8], abs=1e-6)


@pytest.mark.parametrize(
    "which, wanted", [("max", [5, 4]), ("min", [-6, 1]), ("magnitude", [-6, 5])]
)
def test_which_end(which, wanted):
    operator = with_spectrum([1, 2, 3, 4, 5, -6])
    found = extreme_eigenvalues(operator, generator=generator(0), k=2, which=which, rtol=1e-8)
    values = sorted((pair.value for pair in found.pairs), key=abs, reverse=True)
    assert sorted(values) == pytest.approx(sorted(wanted), rel=1e-10)


def test_small_budget_says_not_converged():
    operator = with_spectrum(np.linspace(-1, 1, 300))
    found = extreme_eigenvalues(operator, generator=generator(0), max_matvecs=5)
    assert not any(pair.converged for pair in found.pairs)
    for pair in found.pairs:
        nearest = np.abs(np.linspace(-1, 1, 300) - pair.value).min()
        assert nearest <= pair.residual


def test_recurrence_residual_equals_the_explicit_one():
    operator = with_spectrum(network_like(300))
    kwargs = {"k": 2, "max_matvecs": 15}
    explicit = extreme_eigenvalues(operator, generator=generator(0), **kwargs)
    implicit = extreme_eigenvalues(
        operator, generator=generator(0), explicit_residual=False, **kwargs
    )
    assert implicit.n_matvecs == explicit.n_matvecs - len(explicit.pairs)
    for a, b in zip(explicit.pairs, implicit.pairs, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-10, abs=1e-10)
        assert a.residual == pytest.approx(b.residual, rel=1e-6, abs=1e-9)


def test_warm_start_saves_products():
    operator = with_spectrum(network_like())
    cold = extreme_eigenvalues(operator, generator=generator(0), which="max")
    start = cold.largest.vector + 0.01 * torch.randn(operator.n, dtype=torch.float64) / 40
    warm = extreme_eigenvalues(operator, generator=generator(1), which="max", start=start)
    assert warm.n_matvecs < cold.n_matvecs
    assert warm.largest.value == pytest.approx(150.0, rel=1e-6)


def test_expiry_ends_it_and_progress_is_told():
    told = []
    found = extreme_eigenvalues(
        with_spectrum(network_like(200)),
        generator=generator(0),
        explicit_residual=False,
        expired=lambda: len(told) >= 3,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 200), (2, 200), (3, 200)]
    assert found.n_matvecs == 3 and not found.largest.converged


def test_float32_meets_1e_4():
    operator = with_spectrum(network_like(800), dtype=torch.float32)
    found = extreme_eigenvalues(operator, generator=generator(0), rtol=1e-8, max_matvecs=800)
    assert found.largest.value == pytest.approx(150.0, rel=1e-5)
    assert found.smallest.value == pytest.approx(-4.0, rel=1e-4)
    assert all(pair.converged for pair in found.pairs)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("which", ["both", "max"])
def test_an_end_far_below_the_other_is_not_mistaken_for_the_bulk(which, restarted):
    n = 50_000
    diagonal = torch.zeros(n, dtype=torch.float64)
    diagonal[:4] = torch.tensor([-21137.0, 78.0, 9.6, -4.3])

    class Diagonal:
        dtype, device = torch.float64, torch.device("cpu")

        def __init__(self):
            self.n = n

        def matvec(self, v):
            return diagonal * v

    settings = {"which": which, "rtol": 1e-3, "max_matvecs": 60}
    for seed in range(5):
        random = generator(seed)
        if restarted:
            found = restarted_eigenvalues(Diagonal(), max_basis=9, generator=random, **settings)
        else:
            found = extreme_eigenvalues(Diagonal(), generator=random, **settings)
        assert found.largest.converged
        assert abs(found.largest.value - 78.0) <= found.largest.residual + 1e-9
        assert found.n_matvecs <= 20
