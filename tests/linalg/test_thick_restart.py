"""Bounded memory: the same eigenvalues as an unlimited basis, against eigvalsh."""

import pytest
import torch

from homotopy_cli.errors import NonFiniteError
from homotopy_cli.linalg.extreme import extreme_eigenvalues
from homotopy_cli.linalg.operator import DenseOperator
from homotopy_cli.linalg.thick_restart import restarted_eigenvalues
from homotopy_cli.linalg.vectors import generator


def operator(values, dtype=torch.float64, seed=0):
    values = torch.as_tensor(values, dtype=torch.float64)
    n = len(values)
    q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator(seed))).Q
    return DenseOperator(((q * values) @ q.T).to(dtype))


HARD = torch.cat([torch.linspace(-1.0, 1.0, 197), torch.tensor([1.2, 1.25, -1.3])]).double()


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-8), (torch.float32, 1e-4)])
@pytest.mark.parametrize("max_basis", [8, 12, 30])
@pytest.mark.parametrize("which, k", [("max", 1), ("max", 3), ("both", 2), ("magnitude", 3)])
def test_agrees_with_eigvalsh(which, k, max_basis, dtype, rtol):
    a = operator(HARD, dtype)
    exact = torch.linalg.eigvalsh(a.matrix.double())
    found = restarted_eigenvalues(
        a,
        generator=generator(1),
        k=k,
        which=which,
        max_basis=max_basis,
        rtol=rtol,
        max_matvecs=3000,
    )
    assert all(pair.converged for pair in found.pairs)
    for pair in found.pairs:
        assert (exact - pair.value).abs().min() <= pair.residual
    if which != "magnitude":
        assert abs(found.largest.value - exact[-1]) <= found.largest.residual
    if which == "both":
        assert abs(found.smallest.value - exact[0]) <= found.smallest.residual
    if which == "magnitude":
        ranked = sorted(exact.abs().tolist(), reverse=True)
        for pair, magnitude in zip(found.pairs, ranked, strict=False):
            assert abs(pair.value) == pytest.approx(magnitude, rel=10 * rtol)
    assert found.n_matvecs == a.n_matvecs


def test_costs_little_more_than_an_unlimited_basis():
    values = torch.cat([torch.linspace(0, 1, 195), torch.tensor([2.0, 3.0, 5.0, 8.0, 9.0])])
    settings = {"which": "max", "rtol": 1e-3, "explicit_residual": False}
    free = extreme_eigenvalues(operator(values), generator=generator(0), **settings)
    bound = restarted_eigenvalues(operator(values), generator=generator(0), max_basis=6, **settings)
    assert bound.largest.value == pytest.approx(9.0, rel=1e-5) and bound.largest.converged
    assert bound.n_matvecs <= 2 * free.n_matvecs


def test_without_restart_it_is_plain_lanczos():
    a = operator(HARD)
    settings = {"which": "max", "rtol": 1e-6, "explicit_residual": False}
    free = extreme_eigenvalues(a, generator=generator(0), **settings)
    bound = restarted_eigenvalues(a, generator=generator(0), max_basis=200, **settings)
    assert abs(bound.n_matvecs - free.n_matvecs) <= 1
    assert bound.largest.value == pytest.approx(free.largest.value, rel=1e-10)


@pytest.mark.parametrize(
    "values", [[2.0] * 30, [0.0] * 30, [5.0] * 3 + [1.0] * 27, [3.0], [1.0, -1.0]]
)
def test_degenerate_spectra(values):
    found = restarted_eigenvalues(
        operator(values), generator=generator(0), max_basis=6, max_matvecs=200
    )
    assert found.largest.value == pytest.approx(max(values), abs=1e-10)
    assert found.smallest.value == pytest.approx(min(values), abs=1e-10)
    assert all(pair.converged for pair in found.pairs)


def test_budget_is_kept_and_said():
    a = operator(HARD)
    found = restarted_eigenvalues(
        a, generator=generator(0), max_basis=6, max_matvecs=9, rtol=1e-8, explicit_residual=False
    )
    assert a.n_matvecs == 9 and not found.largest.converged
    assert a.n_matvecs == found.n_matvecs


def test_explicit_residual_of_one_pair():
    a = operator(HARD)
    settings = {"generator": generator(0), "max_basis": 12, "which": "max", "k": 3}
    one = restarted_eigenvalues(a, explicit_residual="one", **settings)
    assert a.n_matvecs == one.n_matvecs and len(one.pairs) == 3
    top = one.pairs[0]
    assert (a.matrix @ top.vector - top.value * top.vector).norm() <= top.residual


def test_refusals():
    with pytest.raises(ValueError, match="max_basis must be at least 5, got 3"):
        restarted_eigenvalues(operator(HARD), generator=generator(0), max_basis=3)
    broken = DenseOperator(torch.full((9, 9), torch.nan))
    with pytest.raises(NonFiniteError, match="product 1 holds NaN"):
        restarted_eigenvalues(broken, generator=generator(0), max_basis=6)


def test_it_stops_when_all_have_converged_though_both_ends_are_among_the_largest():
    """The ends of this spectrum are its two largest by magnitude: k pairs are all there are."""
    values = torch.cat([torch.tensor([-9.0, 8.0, 5.0, 4.0, 3.0]), torch.linspace(-1, 1, 195)])
    a = operator(values.double())
    found = restarted_eigenvalues(
        a, generator=generator(0), max_basis=12, k=5, which="both", rtol=1e-3, max_matvecs=300
    )
    assert all(pair.converged for pair in found.pairs)
    assert found.n_matvecs < 60
