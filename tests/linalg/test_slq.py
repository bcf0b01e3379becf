"""Stochastic Lanczos quadrature: a probability measure with the matrix's moments."""

import pytest
import torch

from homotopy_cli.linalg.extreme import EigenPair
from homotopy_cli.linalg.operator import DenseOperator
from homotopy_cli.linalg.slq import drawing_width, spectral_density
from homotopy_cli.linalg.vectors import generator


def operator(n=300):
    values = torch.cat([torch.linspace(-0.5, 1.0, n - 2), torch.tensor([6.0, -3.0])]).double()
    q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator(5))).Q
    return DenseOperator((q * values) @ q.T), values


def test_weights_are_a_probability_and_nodes_stay_inside():
    a, values = operator()
    q = spectral_density(a, generator=generator(0), n_probes=5, n_steps=20)
    assert q.weights.sum().item() == pytest.approx(1.0, abs=1e-14)
    assert (q.weights >= 0).all()
    assert (q.nodes.diff() >= 0).all()
    assert q.nodes.min() >= values.min() - 1e-10 and q.nodes.max() <= values.max() + 1e-10
    assert q.n_matvecs == 100 and len(q.nodes) == 100


@pytest.mark.parametrize("power", [1, 2, 3, 4])
def test_moments(power):
    a, values = operator()
    q = spectral_density(a, generator=generator(0), n_probes=40, n_steps=12)
    found = (q.weights * q.nodes**power).sum().item()
    truth = (values**power).mean().item()
    sampled = 4 * (2 * (values ** (2 * power)).mean().item() / (300 * 40)) ** 0.5
    assert abs(found - truth) < sampled


def test_few_eigenvalues_are_found_exactly():
    a = DenseOperator(torch.diag(torch.tensor([2.0, 2.0, 2.0, -1.0], dtype=torch.float64)))
    told = []
    q = spectral_density(
        a, generator=generator(0), n_probes=1, progress=lambda *args: told.append(args)
    )
    torch.testing.assert_close(q.nodes, torch.tensor([-1.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(q.weights, torch.tensor([0.25, 0.75], dtype=torch.float64))
    assert told == [(2, 40)]


def test_drawing_width_is_positive_even_for_one_value():
    assert drawing_width(torch.tensor([0.0, 2.0])) == 0.02
    assert drawing_width(torch.tensor([3.0, 3.0])) == pytest.approx(0.03)
    assert drawing_width(torch.tensor([0.0])) > 0


def test_the_error_of_a_share_is_that_of_its_probes():
    eigenvalues = torch.linspace(0.0, 1.0, 200, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(200, 200, dtype=torch.float64)).Q
    operator = DenseOperator((q * eigenvalues) @ q.T)
    exact = torch.arange(1, 201, dtype=torch.float64) / 200
    inside = 0
    for seed in range(20):
        found = spectral_density(operator, generator=generator(seed), n_probes=8, n_steps=30)
        share = torch.stack([found.weights[found.nodes <= t].sum() for t in eigenvalues])
        inside += bool((share - exact).abs().mean() <= 2.0 * found.cdf_stderr)
        assert found.cdf_stderr < 0.05
    assert inside >= 18
    one = spectral_density(operator, generator=generator(0), n_probes=1, n_steps=10)
    assert one.cdf_stderr is None


def test_the_quadrature_ends_early_with_what_it_has():
    operator = DenseOperator(torch.diag(torch.arange(1.0, 51.0, dtype=torch.float64)))
    found = spectral_density(
        operator, generator=generator(0), n_probes=4, n_steps=10, expired=lambda: True
    )
    assert found.n_probes == 1 and found.n_matvecs == 10
    assert found.weights.sum().item() == pytest.approx(1.0)


def test_known_outliers_are_counted_once_and_the_rest_is_seen_better():
    bulk = torch.linspace(-1.0, 1.0, 297, dtype=torch.float64) ** 3
    eigenvalues = torch.cat([bulk, torch.tensor([40.0, 90.0, -70.0], dtype=torch.float64)])
    q = torch.linalg.qr(torch.randn(300, 300, dtype=torch.float64)).Q
    operator = DenseOperator((q * eigenvalues) @ q.T)
    known = [EigenPair(eigenvalues[i].item(), q[:, i], 0.0, True) for i in (297, 298, 299)]
    at = torch.linspace(-1.0, 1.0, 101, dtype=torch.float64)
    exact = torch.stack([(eigenvalues <= t).double().mean() for t in at])

    def distance(seed, **more):
        found = spectral_density(operator, generator=generator(seed), n_probes=4, n_steps=6, **more)
        assert found.weights.sum().item() == pytest.approx(1.0, abs=1e-12)
        share = torch.stack([found.weights[found.nodes <= t].sum() for t in at])
        return (share - exact).abs().mean().item(), found

    blind = sum(distance(seed)[0] for seed in range(5))
    seeing = sum(distance(seed, known=known)[0] for seed in range(5))
    assert seeing < blind
    _, found = distance(0, known=known)
    assert (found.weights[found.nodes == 90.0] * 300).tolist() == pytest.approx([1.0])
