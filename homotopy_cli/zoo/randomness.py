"""Generators keyed by numbers: the same key gives the same stream, on any day."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_MASK = (1 << 64) - 1


def mix(*keys: int) -> int:
    """A 64-bit hash of integers: SplitMix64 (Steele, Lea & Flood 2014) chained over the keys.

    Neighbouring keys give unrelated values, which `seed + step` would not.
    """
    state = 0
    for key in keys:
        state = (state ^ (key & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def keyed_generator(*keys: int) -> torch.Generator:
    """A CPU generator seeded by `mix(*keys)`."""
    return torch.Generator().manual_seed(mix(*keys))


@contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """The global generators of torch's CPU, Python and NumPy at `seed`; restored afterwards."""
    saved, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield
    finally:
        torch.set_rng_state(saved)
        random.setstate(python)
        np.random.set_state(numpy)
