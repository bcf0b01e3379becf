"""Student's t: how many standard errors, taken from few samples, cover a mean."""

import math


def covered(t: float, dof: int) -> float:
    """Return P(|T| <= t) for Student's T with `dof` >= 1 degrees of freedom, dimensionless.

    Source: Abramowitz & Stegun (1964), 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(dof))
    cosine, total = math.cos(angle), 0.0
    term = cosine if dof % 2 else 1.0
    for k in range(dof % 2, dof - 1, 2):
        total += term
        term *= (k + 1.0) / (k + 2.0) * cosine * cosine
    total *= math.sin(angle)
    return 2.0 / math.pi * (angle + total) if dof % 2 else total


def standard_errors(share: float, dof: int) -> float:
    """Return the t with P(|T| <= t) = share, for 0 < share < 1: 12.9 for 99.9 % at dof = 3."""
    low, high = 0.0, 1.0
    while covered(high, dof) < share:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if covered(middle, dof) < share else (low, middle)
    return high
