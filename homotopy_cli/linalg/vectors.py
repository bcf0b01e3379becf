"""Inner products and random vectors of the parameter space.

Sums run in float64 whatever the vectors' dtype: a float32 dot over 10⁶ entries loses about
three digits, which Lanczos would read as a wrong α. Random numbers are always drawn on the
CPU from an explicit generator, so that every device and every rank sees the same vector.

Within `spread_out` a tensor is one rank's part of a longer vector. Sums are then over all ranks
and a random vector is the same one as ever, of which each rank keeps its part; whatever is
linear needs no change. All code that adds over entries must do it by `dot`, `norm`, `project`
or `added`: an entry-wise sum of a part is a number that looks right.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor

_PIECE = 2**17  # entries converted at a time: a float64 copy of the whole is 6 times slower
_GPU_PIECE = 2**24  # on a GPU launching is what takes time: 80 pieces took 20 times one


class Shards(Protocol):
    """How vectors (n,) lie on several ranks."""

    n: int  # entries of a whole vector
    length: int  # of this rank's part

    def part(self, whole: Tensor) -> Tensor:
        """Return this rank's entries, (length,), of a vector (n,)."""
        ...

    def total(self, partial: Tensor) -> Tensor:
        """Return the sum over ranks, the same bits on each."""
        ...


_shards: ContextVar[Shards | None] = ContextVar("shards", default=None)


@contextmanager
def spread_out(shards: Shards | None) -> Iterator[None]:
    """Let vectors be parts of longer ones; None leaves them whole."""
    token = _shards.set(shards)
    try:
        yield
    finally:
        _shards.reset(token)


def part_length(n: int) -> int:
    """Return how many entries of a vector (n,) this rank holds: n, unless spread out."""
    shards = _shards.get()
    return n if shards is None else shards.length


def whole_length(a: Tensor) -> int:
    """Return the n of the vector that `a` is, or is a part of."""
    shards = _shards.get()
    return a.numel() if shards is None else shards.n


def added(partial: Tensor) -> Tensor:
    """Return sums over entries with the other ranks' sums added, where spread out."""
    shards = _shards.get()
    return partial if shards is None or not partial.numel() else shards.total(partial)


def project(rows: Tensor, w: Tensor) -> Tensor:
    """Return rows @ w, shape (m,), for rows (m, n) and a vector w (n,)."""
    return added(rows @ w)


def dot(a: Tensor, b: Tensor) -> float:
    """Return aᵀb for two vectors (n,), accumulated in float64."""
    size = _PIECE if a.device.type == "cpu" else _GPU_PIECE
    if a.dtype == torch.float64 or a.numel() <= size:
        return added(torch.dot(a.to(torch.float64), b.to(torch.float64))).item()
    pieces = zip(a.split(size), b.split(size), strict=True)
    return added(torch.stack([torch.dot(x.double(), y.double()) for x, y in pieces]).sum()).item()


def norm(a: Tensor) -> float:
    """Return ‖a‖₂ of a vector (n,), accumulated in float64."""
    whole = _shards.get() is None
    if whole and (a.dtype == torch.float64 or a.numel() <= _PIECE):
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
    return _own(torch.randn(n, generator=generator, dtype=dtype)).to(device)


def rademacher(
    n: int,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return a vector (n,) of independent signs, ±1 with probability 1/2 each."""
    bits = torch.randint(0, 2, (n,), generator=generator, dtype=torch.int8)
    return (2 * _own(bits) - 1).to(device=device, dtype=dtype)


def signs(
    n: int,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return a vector (n,) of independent signs from n/8 random bytes: for long vectors."""
    drawn = torch.randint(0, 256, (-(-n // 8),), generator=generator, dtype=torch.uint8)
    bits = (drawn.to(device)[:, None] >> torch.arange(8, device=device, dtype=torch.uint8)) & 1
    return _own(bits.reshape(-1)[:n].to(dtype).mul_(2.0).sub_(1.0))


def _own(drawn: Tensor) -> Tensor:
    shards = _shards.get()
    return drawn if shards is None else shards.part(drawn)


def unit(v: Tensor) -> Tensor | None:
    """Return v/‖v‖, or None where v is zero or not finite."""
    length = norm(v)
    if not 0.0 < length < float("inf"):
        return None
    return v / length
