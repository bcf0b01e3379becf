"""Inner products and random vectors of the parameter space.

Sums run in float64 whatever the vectors' dtype: a float32 dot over 10⁶ entries loses about
three digits, which Lanczos would read as a wrong α. Random numbers are always drawn on the
CPU from an explicit generator, so that every device and every rank sees the same vector.
"""

import math

import torch
from torch import Tensor

_PIECE = 2**17  # entries converted at a time: a float64 copy of the whole is 6 times slower


def dot(a: Tensor, b: Tensor) -> float:
    """Return aᵀb for two vectors (n,), accumulated in float64."""
    if a.dtype == torch.float64 or a.numel() <= _PIECE:
        return torch.dot(a.to(torch.float64), b.to(torch.float64)).item()
    pieces = zip(a.split(_PIECE), b.split(_PIECE), strict=True)
    return torch.stack([torch.dot(x.double(), y.double()) for x, y in pieces]).sum().item()


def norm(a: Tensor) -> float:
    """Return ‖a‖₂ of a vector (n,), accumulated in float64."""
    if a.dtype == torch.float64 or a.numel() <= _PIECE:
        return torch.linalg.vector_norm(a, dtype=torch.float64).item()
    return math.sqrt(dot(a, a))


def generator(seed: int) -> torch.Generator:
    """Return a CPU generator; the same seed gives the same vectors on every device."""
    return torch.Generator(device="cpu").manual_seed(seed)


def gaussian(
    n: int,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return a vector (n,) of independent N(0, 1) entries."""
    return torch.randn(n, generator=generator, dtype=dtype).to(device)


def rademacher(
    n: int,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return a vector (n,) of independent signs, ±1 with probability 1/2 each."""
    bits = torch.randint(0, 2, (n,), generator=generator, dtype=torch.int8)
    return (2 * bits - 1).to(device=device, dtype=dtype)


def unit(v: Tensor) -> Tensor | None:
    """Return v/‖v‖, or None where v is zero or not finite."""
    length = norm(v)
    if not 0.0 < length < float("inf"):
        return None
    return v / length
