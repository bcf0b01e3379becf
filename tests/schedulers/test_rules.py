"""The control law against its formulas, evaluated by hand or by an independent expression."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homotopy_cli.schedulers import rules

positive = st.floats(1e-12, 1e12)


@pytest.mark.parametrize(
    ("ratio", "alpha", "expected"),
    [(0.0, 1, 1.0), (1.0, 1, 1.0), (2.0, 1, 0.5), (4.0, 1, 0.25), (3.0, 0.5, 0.5), (9.0, 0, 1.0)],
)
def test_homotopy_scale_is_the_founding_formula(ratio, alpha, expected):
    assert rules.homotopy_scale(ratio, alpha) == expected


def test_homotopy_scale_refuses_nan():
    with pytest.raises(ValueError, match="keep the last ceiling"):
        rules.homotopy_scale(math.nan)


def test_an_infinite_ratio_gives_rate_zero():
    assert rules.homotopy_scale(math.inf) == 0.0


@given(lr=positive, curvature=positive, threshold=st.floats(0.1, 100), target=st.floats(0.1, 2))
def test_founding_formula_on_the_edge_ratio_is_the_ceiling(lr, curvature, threshold, target):
    """Law: lr·scale(ρ/target, α=1) = min(lr, target·c/λ)."""
    ratio = rules.edge_ratio(lr, curvature, threshold) / target
    scaled = lr * rules.homotopy_scale(ratio)
    assert scaled == pytest.approx(min(lr, target * threshold / curvature), rel=1e-12)


@pytest.mark.parametrize("curvature", [0.0, -3.0])
def test_no_positive_curvature_means_no_ceiling(curvature):
    assert rules.lr_ceiling(curvature, 38.0) == math.inf


def test_lr_ceiling_value():
    assert rules.lr_ceiling(10.0, 38.0, 0.5) == pytest.approx(1.9)


def test_release_attacks_at_once_and_rises_by_at_most_the_rate():
    assert rules.released(1.0, 0.1, 1.05) == 0.1
    assert rules.released(1.0, 5.0, 1.05) == 1.05
    assert rules.released(1.0, 1.01, 1.05) == 1.01
    assert rules.released(1.0, math.inf, 1.05) == 1.05
    assert rules.released(math.inf, math.inf, 1.05) == math.inf
    assert rules.released(math.inf, 2.0, 1.05) == 2.0


@given(old=positive, new=positive, keep=st.floats(0, 1))
def test_log_average_is_the_weighted_geometric_mean(old, new, keep):
    expected = old**keep * new ** (1 - keep)
    assert rules.log_average(old, new, keep) == pytest.approx(expected, rel=1e-9)


def test_log_average_starts_with_the_first_positive_value():
    assert rules.log_average(None, -1.0, 0.9) is None
    assert rules.log_average(None, 7.0, 0.9) == 7.0


def test_a_negative_curvature_lowers_the_average_by_at_most_a_thousand():
    assert rules.log_average(5.0, -2.0, 0.0) == pytest.approx(5e-3)


def test_log_change():
    assert rules.log_change(2.0, 2.0 * math.e) == pytest.approx(1.0)
    assert rules.log_change(2.0 * math.e, 2.0) == pytest.approx(1.0)
    assert rules.log_change(None, 2.0) == rules.log_change(2.0, -1.0) == math.inf


def test_curvature_in_force_takes_the_larger():
    assert rules.curvature_in_force(3.0, None) == 3.0
    assert rules.curvature_in_force(3.0, 5.0) == 5.0
    assert rules.curvature_in_force(8.0, 5.0) == 8.0


@pytest.mark.parametrize(
    ("period", "log_change", "load", "alarm", "expected"),
    [
        (10, 0.05, 0.2, False, 20),  # quiet and far: doubles
        (150, 0.05, 0.2, False, 200),  # up to the longest
        (20, 0.05, 0.9, False, 5),  # near the edge: quartered
        (20, 0.05, 0.2, True, 5),  # alarm: quartered
        (2, 0.5, 0.9, False, 1),  # never below 1
        (40, 0.5, 0.2, False, 10),  # moving: back to the base
        (3, 0.5, 0.6, False, 6),  # from below the base it doubles back up
        (8, 0.5, 0.6, False, 10),
    ],
)
def test_next_period(period, log_change, load, alarm, expected):
    got = rules.next_period(
        period, base=10, longest=200, log_change=log_change, load=load, alarm=alarm
    )
    assert got == expected


def test_log_percentile_interpolates_in_log_space():
    assert rules.log_percentile([1.0, 100.0], 50) == pytest.approx(10.0)
    assert rules.log_percentile([1.0, 10.0, 100.0], 75) == pytest.approx(10**1.5)
    assert rules.log_percentile([3.0], 75) == pytest.approx(3.0)


@pytest.mark.parametrize("bad", [[], [1.0, 0.0], [1.0, math.nan], [math.inf]])
def test_log_percentile_refuses_what_has_no_logarithm(bad):
    with pytest.raises(ValueError, match="positive and finite"):
        rules.log_percentile(bad, 75)


def test_outlier_needs_history_and_a_large_rise():
    quiet = [10.0, 10.1, 9.9, 10.0, 10.2, 9.8]
    assert not rules.is_outlier(1e9, quiet[:4])
    assert rules.is_outlier(10.0 * math.exp(0.41), quiet)  # 4 * floor of 0.1
    assert not rules.is_outlier(10.0 * math.exp(0.39), quiet)
    assert not rules.is_outlier(1e-6, quiet)  # a dip is no alarm


@given(target=positive, percentile=positive)
def test_learned_target_moves_towards_the_percentile_by_at_most_the_rate(target, percentile):
    moved = rules.learned_target(target, percentile, 0.01)
    assert abs(math.log(moved / target)) <= 0.01 + 1e-9
    assert abs(math.log(moved / percentile)) <= abs(math.log(target / percentile)) + 1e-9


@given(st.dictionaries(st.text(max_size=3), positive, min_size=1))
def test_layer_multipliers_follow_the_formula(curvatures):
    middle = statistics.median(curvatures.values())
    for name, got in rules.layer_multipliers(curvatures).items():
        expected = min(4.0, max(0.25, math.sqrt(middle / curvatures[name])))
        assert got == pytest.approx(expected, rel=1e-12)


def test_layers_without_positive_curvature_keep_their_rate():
    got = rules.layer_multipliers({"a": 1.0, "b": -2.0, "c": math.nan, "d": 0.0})
    assert got == {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}
    assert rules.layer_multipliers({"b": -2.0}) == {"b": 1.0}


@pytest.mark.parametrize(
    ("ratio", "expected"), [(0.1, 0.55), (0.4, 0.5), (0.95, 0.25), (-3.0, 0.55)]
)
def test_warmup_factor_rises_holds_and_cuts(ratio, expected):
    got = rules.warmup_factor(0.5, growth=1.1, ratio=ratio, rise_below=0.25, cut_above=0.7)
    assert got == pytest.approx(expected)


def test_warmup_factor_stops_at_one():
    assert rules.warmup_factor(0.99, growth=1.1, ratio=0.0) == 1.0


@given(max_norm=positive, curvature=st.floats(-1e6, 1e9))
def test_clip_limit_is_the_founding_law(max_norm, curvature):
    got = rules.clip_limit(max_norm, curvature)
    assert got == pytest.approx(max_norm / (1 + max(curvature, 0) / 1e4))
    assert rules.clip_limit(max_norm, math.nan) == max_norm
