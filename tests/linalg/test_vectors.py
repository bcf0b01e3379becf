"""Vectors: float64 accumulation, seeded draws."""

import math

import pytest
import torch

from homotopy_cli.linalg import vectors


def test_dot_and_norm_accumulate_in_float64():
    a = torch.full((1_000_000,), 0.1, dtype=torch.float32)
    value = float(a[0])
    assert abs(vectors.dot(a, a) / (1e6 * value**2) - 1.0) < 1e-10
    assert abs(vectors.norm(a) / (1e3 * value) - 1.0) < 1e-10


def test_same_seed_same_vector_and_signs_are_signs():
    draws = [vectors.rademacher(1000, generator=vectors.generator(3)) for _ in range(2)]
    assert torch.equal(*draws)
    assert set(draws[0].tolist()) == {-1.0, 1.0}
    assert abs(draws[0].mean()) < 4 / 1000**0.5
    g = vectors.gaussian(1000, generator=vectors.generator(3), dtype=torch.float32)
    assert g.dtype == torch.float32
    assert abs(g.std() - 1.0) < 4 / 2000**0.5


def test_unit_refuses_zero_and_non_finite():
    assert vectors.unit(torch.zeros(3)) is None
    assert vectors.unit(torch.tensor([1.0, float("nan")])) is None
    unit = vectors.unit(torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(unit, torch.tensor([0.6, 0.8]))


def test_long_vectors_are_summed_in_pieces_without_losing_digits():
    a = vectors.gaussian(400_001, generator=vectors.generator(0), dtype=torch.float32)
    b = vectors.gaussian(400_001, generator=vectors.generator(1), dtype=torch.float32)
    exact = math.fsum((a.double() * b.double()).tolist())
    assert vectors.dot(a, b) == pytest.approx(exact, abs=1e-9)
    assert vectors.norm(a) == pytest.approx(
        math.sqrt(math.fsum((a.double() ** 2).tolist())), rel=1e-13
    )
    assert vectors.norm(1e30 * a) == pytest.approx(1e30 * vectors.norm(a), rel=1e-6)
    assert math.isnan(vectors.norm(a * float("nan")))


def test_cheap_signs_are_signs_the_same_everywhere_and_without_pattern():
    draws = [vectors.signs(100_003, generator=vectors.generator(3)) for _ in range(2)]
    assert torch.equal(*draws) and draws[0].shape == (100_003,)
    assert set(draws[0].tolist()) == {-1.0, 1.0}
    for shift in (1, 7, 8, 64):  # bits of one byte, and of different ones
        together = float((draws[0][:-shift] * draws[0][shift:]).mean())
        assert abs(together) < 5 / 100_003**0.5
    assert abs(float(draws[0].mean())) < 5 / 100_003**0.5
