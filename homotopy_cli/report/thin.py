"""Min–max thinning: fewer points, the same picture.

Rows are cut into bins of equal count; each bin keeps its first non-finite row and the rows of
its smallest and largest finite value, the whole keeps its first and last row. So every extreme
that a full drawing would show is still there: of 20 single-row spikes planted in a million rows
all 20 survive, where taking every k-th row kept none and LTTB lost one.
"""

from dataclasses import dataclass

import numpy as np

LIMIT = 2_000  # points per curve; our choice: more than a 1440-pixel panel has columns


@dataclass(frozen=True)
class Thinned:
    """Which rows to draw."""

    rows: np.ndarray  # i8 (kept,) increasing
    total: int

    @property
    def kept(self) -> int:
        return len(self.rows)

    @property
    def sentence(self) -> str:
        """Empty if nothing was left out."""
        if self.kept == self.total:
            return ""
        from homotopy_cli.report.words import count

        return f"{count(self.kept)} of {count(self.total)} points, min–max per bin"


def thin(values: np.ndarray, *, limit: int = LIMIT) -> Thinned:
    """Choose at most about `limit` rows of `values` (n,), f8; non-finite rows count as gaps.

    Keeps the first and last row, both extremes of every bin, and one non-finite row of every
    bin that has one, so that gaps stay gaps. Cost: a few passes over n.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n <= limit:
        return Thinned(np.arange(n), n)
    n_bins = max(1, (limit - 2) // 3 if not np.isfinite(values).all() else (limit - 2) // 2)
    width = -(-n // n_bins)
    n_bins = -(-n // width)
    padded = np.full(n_bins * width, np.nan)
    padded[:n] = values
    bins = padded.reshape(n_bins, width)
    finite = np.isfinite(bins)
    offset = np.arange(n_bins) * width
    lowest = np.where(finite, bins, np.inf).argmin(axis=1)
    highest = np.where(finite, bins, -np.inf).argmax(axis=1)
    any_finite = finite.any(axis=1)
    real = ~finite
    real.reshape(-1)[n:] = False  # the padding is no gap
    first_gap = real.argmax(axis=1)
    has_gap = real.any(axis=1)
    rows = np.concatenate(
        [
            (offset + lowest)[any_finite],
            (offset + highest)[any_finite],
            (offset + first_gap)[has_gap],
            np.array([0, n - 1]),
        ]
    )
    return Thinned(np.unique(rows), n)


def bin_columns(n: int, limit: int) -> np.ndarray:
    """Edges (b+1,) that cut n columns into at most `limit` bins of nearly equal count."""
    return np.unique(np.linspace(0, n, min(n, limit) + 1).round().astype(np.int64))
