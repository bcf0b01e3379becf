"""Min–max thinning against a plain loop, and against spikes planted where nobody looks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from homotopy_cli.report.series import curve, trailing_mean
from homotopy_cli.report.thin import bin_columns, thin


def test_short_series_are_left_alone():
    thinned = thin(np.arange(2000.0))
    assert list(thinned.rows) == list(range(2000))
    assert thinned.sentence == ""


@pytest.mark.parametrize("n", [10_000, 100_000, 1_000_000])
def test_every_planted_spike_survives(n):
    rng = np.random.default_rng(n)
    values = rng.standard_normal(n)
    at = rng.choice(n, 20, replace=False)
    values[at] = 100.0 + rng.random(20)
    rows = thin(values).rows
    assert len(rows) <= 2000
    shown = set(rows.tolist())
    # two spikes that share a bin leave only the taller one: at 2000 points that is no pixel apart
    bins = {int(i) * 999 // n for i in at}
    assert len(shown & set(at.tolist())) >= len(bins)


def test_the_sentence_says_how_many_and_how():
    text = thin(np.random.default_rng(0).random(180_000)).sentence.replace("\u202f", " ")
    kept, rest = text.split(" of ")
    assert rest == "180 000 points, min–max per bin"
    assert 1900 < int(kept.replace(" ", "")) <= 2000


@given(
    arrays(
        "f8",
        st.integers(1, 400),
        elements=st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1.0, -3.0, 7.5]),
    ),
    st.integers(6, 60),
)
def test_ends_extremes_and_gaps_survive(values, limit):
    rows = thin(values, limit=limit).rows
    assert rows[0] == 0 and rows[-1] == len(values) - 1
    assert (np.diff(rows) > 0).all()
    kept = values[rows]
    finite = values[np.isfinite(values)]
    if len(finite):
        shown = kept[np.isfinite(kept)]
        assert shown.min() == finite.min() and shown.max() == finite.max()
    assert np.isfinite(kept).all() == np.isfinite(values).all()


def test_each_bin_shows_what_a_loop_over_its_rows_finds():
    values = np.random.default_rng(1).standard_normal(5000)
    values[777] = np.nan
    rows = set(thin(values, limit=302).rows.tolist())
    width = 50  # 5000 rows in 100 bins
    for start in range(0, 5000, width):
        block = [(v, i) for i, v in enumerate(values[start : start + width], start) if v == v]
        assert min(block)[1] in rows and max(block)[1] in rows
    assert 777 in rows


def test_columns_are_cut_into_even_bins():
    edges = bin_columns(1000, 160)
    assert edges[0] == 0 and edges[-1] == 1000 and len(edges) == 161
    assert set(np.diff(edges)) <= {6, 7}
    assert list(bin_columns(3, 160)) == [0, 1, 2, 3]


def test_a_curve_says_what_it_did_not_draw():
    values = np.array([1.0, 0.0, np.nan, np.inf, 5.0])
    drawn = curve(np.arange(5), values, "kappa", positive=True)
    assert drawn.y == [1.0, None, None, None, 5.0]
    assert drawn.isolated == [0, 4]
    assert drawn.notes == (
        "kappa has 2 non-finite values (steps 2–3)",
        "1 value of kappa ≤ 0 not drawn on the log axis",
    )


def test_sparse_columns_are_joined_over_the_rows_that_were_not_measured():
    values = np.array([1.0, np.nan, np.nan, 4.0])
    drawn = curve(np.arange(4), values, "eval", gaps=False)
    assert (drawn.x, drawn.y, drawn.notes) == ([0, 3], [1.0, 4.0], ())


def test_the_trailing_mean_looks_back_only():
    values = np.random.default_rng(2).standard_normal(300)
    values[100] = np.nan
    mean = trailing_mean(values, 20)
    for i in (0, 7, 50, 99, 101, 299):
        low = max(0, i + 1 - min(20, 1 + (i + 1) // 8))
        expected = np.nanmean(values[low : i + 1])
        np.testing.assert_allclose(mean[i], expected, rtol=1e-12)
    assert np.isnan(mean[100])
