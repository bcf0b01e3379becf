"""Two estimates of the same thing, field by field."""

import dataclasses
import math

import numpy as np

# Wall time; and differences at rounding level, whose digits are those of the rounding.
LEFT_OUT = {"cost", "symmetry_error", "difference_error", "difference_bound", "step"}


def differences(a, b, *, rtol, scale, path=""):
    """Yield 'path: a, b' where two records differ by more than rtol of max(scale, |a|)."""
    if dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            if field.name not in LEFT_OUT:
                pair = getattr(a, field.name), getattr(b, field.name)
                yield from differences(*pair, rtol=rtol, scale=scale, path=f"{path}.{field.name}")
    elif isinstance(a, tuple | np.ndarray) and not isinstance(a, str):
        if len(a) != len(b):
            yield f"{path}: {len(a)} and {len(b)} entries"
        for i, pair in enumerate(zip(a, b, strict=False)):
            yield from differences(*pair, rtol=rtol, scale=scale, path=f"{path}[{i}]")
    elif isinstance(a, float) and isinstance(b, float):
        both = (math.isnan(a) and math.isnan(b)) or a == b
        if not both and not abs(a - b) <= rtol * max(scale, abs(a)):
            yield f"{path}: {a!r} and {b!r}"
    elif a != b:
        yield f"{path}: {a!r} and {b!r}"


def assert_same_estimate(found, expected, rtol=1e-10):
    """Every field to rtol of itself or, for eigenvalues near zero and residuals, of ‖H‖."""
    scale = min(1.0, found.hessian_norm or 1.0)
    assert not list(differences(found, expected, rtol=rtol, scale=scale))
