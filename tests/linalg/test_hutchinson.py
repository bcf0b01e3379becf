"""Traces and Frobenius norms: unbiased, with standard errors that are true."""

import math

import pytest
import torch

from homotopy_cli.errors import NonFiniteError
from homotopy_cli.linalg.hutchinson import (
    LowRank,
    mean_with_error,
    probe_samples,
    sketched,
    squared_frobenius_norm,
    trace,
)
from homotopy_cli.linalg.operator import DenseOperator
from homotopy_cli.linalg.vectors import generator


def outliers(n=120):
    """Three large eigenvalues over a small bulk."""
    values = torch.cat([torch.tensor([80.0, 50.0, -40.0]), torch.linspace(-1, 2, n - 3)]).double()
    q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator(5))).Q
    return DenseOperator((q * values) @ q.T), q, values


def test_mean_with_error():
    mean = mean_with_error([1.0, 2.0, 3.0, 6.0])
    assert mean.value == 3.0
    assert mean.stderr == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))
    assert mean_with_error([2.0]).stderr == math.inf


@pytest.mark.parametrize("estimator", [trace, squared_frobenius_norm])
def test_mean_over_many_seeds_is_the_truth_and_the_error_bar_is_true(estimator):
    operator, _, _ = outliers()
    a = operator.matrix
    truth = a.trace().item() if estimator is trace else a.square().sum().item()
    runs = [estimator(operator, generator=generator(s), n_probes=10) for s in range(200)]
    z = torch.tensor([(r.value - truth) / r.stderr for r in runs])
    spread = torch.tensor([r.value for r in runs]).double().std().item()
    mean = sum(r.value for r in runs) / len(runs)
    assert abs(mean - truth) < 4 * spread / len(runs) ** 0.5
    assert 0.8 < (z.abs() < 2.26).double().mean() <= 1.0  # Student t, 9 degrees: 95 %


def test_sign_probe_variance_is_twice_the_off_diagonal_norm():
    operator, _, _ = outliers(40)
    a = operator.matrix
    wanted = 2 * (a.square().sum() - a.diagonal().square().sum()).item()
    samples = probe_samples(operator, generator=generator(0))
    drawn = torch.tensor([next(samples).block_traces.sum().item() for _ in range(4000)]).double()
    assert drawn.var().item() == pytest.approx(wanted, rel=0.15)


def test_known_part_stays_unbiased_and_narrows_the_error():
    operator, q, values = outliers()
    known = LowRank(values=values[:3], vectors=q.T[:3].contiguous())
    for estimator, truth in (
        (trace, operator.matrix.trace().item()),
        (squared_frobenius_norm, operator.matrix.square().sum().item()),
    ):
        plain = estimator(operator, generator=generator(1), n_probes=40)
        better = estimator(operator, generator=generator(1), n_probes=40, known=known)
        assert better.stderr < plain.stderr / 5
        assert abs(better.value - truth) < 4 * better.stderr


def test_wrong_known_part_costs_accuracy_but_not_truth():
    operator, q, _ = outliers()
    wrong = LowRank(
        values=torch.tensor([500.0, -90.0], dtype=torch.float64), vectors=q.T[10:12].contiguous()
    )
    found = trace(operator, generator=generator(2), n_probes=400, known=wrong)
    assert abs(found.value - operator.matrix.trace().item()) < 4 * found.stderr


def test_segment_traces_sum_to_the_whole_and_are_unbiased():
    operator, q, values = outliers()
    known = LowRank(values=values[:3], vectors=q.T[:3].contiguous())
    lengths = torch.tensor([10, 70, 40])
    samples = probe_samples(operator, generator=generator(0), lengths=lengths, known=known)
    drawn = torch.stack([next(samples).block_traces for _ in range(300)])
    truth = torch.stack([part.sum() for part in operator.matrix.diagonal().split([10, 70, 40])])
    error = drawn.std(dim=0) / 300**0.5
    assert ((drawn.mean(dim=0) - truth).abs() < 4 * error).all()


def test_a_sketch_leaves_the_operator_compressed_to_its_complement():
    operator, q, values = outliers()
    ritz = LowRank(values[:2], q.T[:2].contiguous())
    known = sketched(operator, generator=generator(3), n_matvecs=20, known=ritz)
    known_part = torch.stack([known.times(row) for row in torch.eye(operator.n).double()])
    off = torch.eye(operator.n).double() - known.vectors.T @ known.vectors
    left = operator.matrix - known_part
    torch.testing.assert_close(left, off @ operator.matrix @ off, atol=1e-10, rtol=0)
    torch.testing.assert_close(known.diagonal(), known_part.diagonal(), atol=1e-10, rtol=0)
    assert known.squared_norm() == pytest.approx(known_part.square().sum().item(), rel=1e-12)


def test_non_finite_product_is_named():
    operator, _, _ = outliers(5)
    operator.matrix[0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match="random probe holds NaN or infinity"):
        trace(operator, generator=generator(0), n_probes=2)


def decaying(n=120, seed=4):
    draw = generator(seed)
    q = torch.linalg.qr(torch.randn(n, n, generator=draw, dtype=torch.float64)).Q
    values = 100.0 * 0.7 ** torch.arange(n, dtype=torch.float64) + 0.01
    return (q * values) @ q.T, values, q


def test_sketch_takes_out_the_large_eigenvalues_and_keeps_the_trace_unbiased():
    matrix, values, _ = decaying()
    part = sketched(DenseOperator(matrix), generator=generator(0), n_matvecs=24)
    assert part.vectors.shape == (12, 120)
    torch.testing.assert_close(
        part.vectors @ part.vectors.T, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-10
    )
    plain = trace(DenseOperator(matrix), generator=generator(1), n_probes=40)
    helped = trace(DenseOperator(matrix), generator=generator(1), n_probes=40, known=part)
    assert helped.stderr < 0.1 * plain.stderr
    assert abs(helped.value - values.sum().item()) < 4 * helped.stderr
    square = squared_frobenius_norm(
        DenseOperator(matrix), generator=generator(2), n_probes=40, known=part
    )
    assert abs(square.value - values.square().sum().item()) < 4 * square.stderr


def test_sketch_adds_to_what_is_known():
    matrix, values, q = decaying()
    known = LowRank(values[:3], q[:, :3].T.contiguous())
    operator = DenseOperator(matrix)
    part = sketched(operator, generator=generator(0), n_matvecs=10, known=known)
    assert operator.n_matvecs == 10 and len(part.values) == 8
    torch.testing.assert_close(part.values[:3], values[:3])
    assert part.values[-1] == pytest.approx(values[3].item(), rel=0.05)
    gram = part.vectors @ part.vectors.T
    torch.testing.assert_close(gram, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-9)


def test_interval_of_two_standard_errors_covers_the_trace():
    """95 % nominal; over 200 seeds the coverage must not fall under 90 %."""
    matrix, values, _ = decaying(60)
    total, inside = values[:60].sum().item(), 0
    for seed in range(200):
        draw = generator(seed)
        part = sketched(DenseOperator(matrix), generator=draw, n_matvecs=8)
        found = trace(DenseOperator(matrix), generator=draw, n_probes=16, known=part)
        inside += abs(found.value - total) <= 2 * found.stderr
    assert inside >= 180
