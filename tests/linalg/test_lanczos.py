"""The recurrence: orthogonal basis, exact sections, breakdown and restart."""

import pytest
import torch

from homotopy_cli.errors import NonFiniteError
from homotopy_cli.linalg.lanczos import lanczos
from homotopy_cli.linalg.operator import DenseOperator
from homotopy_cli.linalg.vectors import generator


def symmetric(n, seed=0, dtype=torch.float64):
    a = torch.randn(n, n, dtype=torch.float64, generator=generator(seed))
    return ((a + a.T) / 2).to(dtype)


def basis_matrix(tri):
    eye = torch.eye(len(tri.basis), dtype=torch.float64)
    return torch.stack([tri.basis.combine(row).double() for row in eye])


def t_matrix(tri):
    side = tri.betas[:-1]
    return torch.diag(tri.alphas) + torch.diag(side, 1) + torch.diag(side, -1)


@pytest.mark.parametrize("dtype, tol", [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_basis_stays_orthonormal_and_sections_the_matrix(dtype, tol):
    spectrum = torch.cat([torch.logspace(-6, 3, 60), -torch.logspace(-3, 1, 20)]).double()
    q = torch.linalg.qr(symmetric(80)).Q
    a = ((q * spectrum) @ q.T).to(dtype)
    tri = lanczos(DenseOperator(a), generator=generator(1), max_steps=80)
    basis = basis_matrix(tri)
    eye = torch.eye(len(basis), dtype=torch.float64)
    assert (basis @ basis.T - eye).abs().max() < tol
    section = basis @ a.double() @ basis.T
    assert (section - t_matrix(tri)).abs().max() < tol * 1e3


def test_n_steps_give_every_eigenvalue():
    a = symmetric(40)
    tri = lanczos(DenseOperator(a), generator=generator(0), max_steps=1000)
    values, residuals, _ = tri.ritz()
    torch.testing.assert_close(values, torch.linalg.eigvalsh(a), rtol=1e-12, atol=1e-12)
    assert residuals.max() == 0.0


@pytest.mark.parametrize("spectrum", [[2.0] * 6, [0.0] * 6, [1.0, 1.0, 1.0, -4.0, -4.0, 7.0]])
def test_breakdown_restarts_without_inventing(spectrum):
    q = torch.linalg.qr(symmetric(6)).Q
    a = (q * torch.tensor(spectrum, dtype=torch.float64)) @ q.T
    tri = lanczos(DenseOperator(a), generator=generator(0), max_steps=6)
    assert tri.breakdown
    wanted = torch.tensor(sorted(spectrum), dtype=torch.float64)
    torch.testing.assert_close(tri.ritz()[0], wanted, rtol=1e-12, atol=1e-12)


def test_without_restart_it_ends_at_the_breakdown():
    a = DenseOperator(torch.diag(torch.tensor([3.0, 3.0, 1.0], dtype=torch.float64)))
    tri = lanczos(a, generator=generator(0), max_steps=3, restart=False)
    assert len(tri.alphas) == 2 and a.n_matvecs == 2
    torch.testing.assert_close(tri.ritz()[0], torch.tensor([1.0, 3.0], dtype=torch.float64))


def test_start_inside_an_invariant_subspace_goes_on_outside():
    a = torch.diag(torch.arange(1.0, 9.0, dtype=torch.float64))
    start = torch.zeros(8, dtype=torch.float64)
    start[0] = 2.0
    tri = lanczos(DenseOperator(a), generator=generator(0), max_steps=8, start=start)
    assert abs(tri.alphas[0] - 1.0) < 1e-14 and tri.betas[0] == 0.0
    torch.testing.assert_close(tri.ritz()[0], a.diagonal(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("start", [torch.zeros(4), torch.full((4,), float("nan"))])
def test_useless_start_is_replaced_by_a_random_one(start):
    tri = lanczos(DenseOperator(symmetric(4)), generator=generator(0), max_steps=4, start=start)
    torch.testing.assert_close(tri.ritz()[0], torch.linalg.eigvalsh(symmetric(4)))


def test_non_finite_product_is_named():
    a = symmetric(4)
    a[2, 2] = float("nan")
    with pytest.raises(NonFiniteError, match="matrix-vector product 1 holds NaN or infinity"):
        lanczos(DenseOperator(a), generator=generator(0), max_steps=4)


def test_no_steps_is_a_programming_error():
    with pytest.raises(ValueError, match="max_steps >= 1"):
        lanczos(DenseOperator(symmetric(4)), generator=generator(0), max_steps=0)


def test_not_square_is_a_programming_error():
    with pytest.raises(ValueError, match="square"):
        DenseOperator(torch.zeros(2, 3))
