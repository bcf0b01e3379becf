"""Numbers and sentences, the same everywhere: page, Markdown, tables."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

DASH = "–"
NONE = "—"
THIN_SPACE = "\u202f"  # narrow no-break space between thousands


def count(n: float) -> str:
    """An integer with grouped thousands: 180 000."""
    return f"{int(n):,}".replace(",", THIN_SPACE)


def number(x: float | None, digits: int = 4) -> str:
    """`x` to `digits` significant digits; a dash if it was not measured, ∞ or NaN as such."""
    if x is None:
        return NONE
    x = float(x)
    if math.isnan(x):
        return "NaN"
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    if x == 0:
        return "0"
    if x == int(x) and abs(x) < 1e6:
        return count(x).replace("-", "−")
    magnitude = abs(x)
    if 1e-3 <= magnitude < 1e5:
        decimals = max(0, digits - 1 - math.floor(math.log10(magnitude)))
        text = f"{x:,.{decimals}f}".replace(",", THIN_SPACE)
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "−", 1) if x < 0 else text


def rate(x: float | None, digits: int = 3) -> str:
    """A learning rate as people write it: 0.1, 3e-3, 2.78e-3."""
    if x is None or not math.isfinite(x) or x == 0 or abs(x) >= 0.01:
        return number(x, digits)
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"


def percent(fraction: float | None) -> str:
    """0.034 -> 3.4 %."""
    if fraction is None or not math.isfinite(fraction):
        return NONE
    value = 100 * fraction
    digits = (
        2 if 99.5 <= abs(value) < 100 else 0 if abs(value) >= 10 else 1 if abs(value) >= 1 else 2
    )
    return f"{value:.{digits}f}{THIN_SPACE}%"


def duration(seconds: float) -> str:
    """45.2 s, 12.5 min, 3.2 h, 2.1 d."""
    for unit, size, most in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{number(seconds / size, 3)}{THIN_SPACE}{unit}"
    return f"{number(seconds / 86_400, 3)}{THIN_SPACE}d"


def plural(n: int, noun: str, nouns: str | None = None) -> str:
    """3 spikes, 1 spike."""
    return f"{count(n)} {noun if n == 1 else nouns or noun + 's'}"


def join(parts: Sequence[str]) -> str:
    """a, b and c."""
    parts = [part for part in parts if part]
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def ranges(steps: np.ndarray, mask: np.ndarray, *, limit: int = 3) -> str:
    """Where `mask` holds, as ranges of steps: 0–180, 1 204–1 236 and 3 more ranges.

    The longest ranges are named, in order of steps.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    starts, stops = edges[::2], edges[1::2] - 1
    if not len(starts):
        return ""
    chosen = np.sort(np.argsort(-(stops - starts), kind="stable")[:limit])
    named = [
        count(steps[a]) if a == b else f"{count(steps[a])}{DASH}{count(steps[b])}"
        for a, b in zip(starts[chosen], stops[chosen], strict=True)
    ]
    rest = len(starts) - len(chosen)
    return join(named) if not rest else f"{', '.join(named)} and {plural(rest, 'more range')}"


def at_steps(steps: np.ndarray, mask: np.ndarray) -> str:
    """`ranges` after its noun: step 0, or steps 0–2."""
    return f"step{'s' * (int(mask.sum()) > 1)} {ranges(steps, mask)}"


def gaps(name: str, steps: np.ndarray, values: np.ndarray) -> str:
    """What is not finite in a column, in words; empty if everything is.

    `loss non-finite from step 40 (60 rows)` when it never recovers, else
    `kappa has 2 non-finite values (steps 10–11)`.
    """
    bad = ~np.isfinite(values)
    n_bad = int(bad.sum())
    if not n_bad:
        return ""
    first = int(bad.argmax())
    if bad[first:].all() and n_bad > 1:
        return f"{name} non-finite from step {count(steps[first])} ({plural(n_bad, 'row')})"
    noun = plural(n_bad, "non-finite value")
    return f"{name} has {noun} ({at_steps(steps, bad)})"


def sentences(parts: Iterable[str]) -> str:
    """Join clauses into running text: each gets a full stop, and a capital if it is a word."""
    done = []
    for part in parts:
        text = part.strip()
        if text:
            if text[0].isascii():  # λ must not become Λ
                text = text[0].upper() + text[1:]
            done.append(text if text.endswith((".", "!", "?")) else text + ".")
    return " ".join(done)


def shorten(text: str, width: int) -> str:
    """Cut the middle out of a long name: both ends tell more than the middle."""
    if len(text) <= width:
        return text
    tail = (width - 1) * 2 // 3
    return f"{text[: width - 1 - tail]}…{text[-tail:]}"
