"""Quantiles of a stream in bounded memory."""

import numpy as np
from torch import Tensor

CAPACITY = 1_000_000  # our choice: 8 MB, and exact for every probe but the longest


class Sample:
    """All values up to `capacity`; beyond it a uniform random subset, and exact extremes.

    The subset is the `capacity` values with the largest random keys, so that it is a sample
    without replacement however the values arrive. Its generator is its own.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.count = 0
        self.smallest = np.inf
        self._values: list[np.ndarray] = []
        self._keys: np.ndarray | None = None  # drawn once there are too many values
        self._generator = np.random.default_rng(0)

    def add(self, values: Tensor) -> None:
        """Take finite values of any shape."""
        new = values.detach().double().reshape(-1).cpu().numpy()
        if not new.size:
            return
        self.count += new.size
        self.smallest = min(self.smallest, float(new.min()))
        self._values.append(new)
        if self.count > self.capacity:
            self._thin(new.size)

    def _thin(self, n_new: int) -> None:
        values = np.concatenate(self._values)
        old = self._keys
        if old is None:
            old = self._generator.random(values.size - n_new)
        self._trim(values, np.concatenate([old, self._generator.random(n_new)]))

    def _trim(self, values: np.ndarray, keys: np.ndarray) -> None:
        if keys.size <= self.capacity:
            self._values, self._keys = [values], keys
            return
        kept = np.argpartition(keys, keys.size - self.capacity)[-self.capacity :]
        self._values, self._keys = [values[kept]], keys[kept]

    def absorb(self, other: "Sample") -> None:
        """Take what another sample of the same capacity has seen, as if it had come here."""
        if not other.count:
            return
        keyed = self.count + other.count > self.capacity
        values, keys = [], []
        for sample in (self, other):
            own = np.concatenate([np.empty(0), *sample._values])
            values.append(own)
            if keyed:
                drawn = sample._keys
                keys.append(sample._generator.random(own.size) if drawn is None else drawn)
        self.count += other.count
        self.smallest = min(self.smallest, other.smallest)
        self._values = values
        if keyed:
            self._trim(np.concatenate(values), np.concatenate(keys))

    def quantile(self, q: float) -> float:
        """The q-quantile, linear between order statistics."""
        return float(np.quantile(np.concatenate(self._values), q))
