"""An orthonormal basis that grows one vector at a time, and projection onto its complement."""

import torch
from torch import Tensor

from homotopy_cli.linalg.vectors import gaussian, norm, part_length, project, unit

_CHUNK = 32  # most vectors allocated at once: no copy on growth, at most 31 unused
_CHUNK_BYTES = 2**28  # and their size: long vectors come in smaller chunks


class Basis:
    """Orthonormal vectors q₁..q_m of shape (n,), held in preallocated chunks of rows.

    Args:
        n: Length of a vector; each rank holds its part where vectors are spread out.
        dtype: Of the vectors.
        device: Of the vectors.
        capacity: The most vectors that will come; memory is capacity · n numbers.
        locked: (k, n) orthonormal rows that every vector must be orthogonal to as well; they
            are no part of the basis.
    """

    def __init__(
        self,
        n: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        capacity: int,
        locked: Tensor | None = None,
    ) -> None:
        self.n = n
        self._width = part_length(n)
        self.room = n if locked is None else n - len(locked)
        self._locked = [] if locked is None else [locked]
        self.dtype = dtype
        self.device = device
        self.capacity = min(capacity, self.room)
        self._chunks: list[Tensor] = []
        bytes_each = max(1, self._width * torch.finfo(dtype).bits // 8)
        self._chunk = max(1, min(_CHUNK, _CHUNK_BYTES // bytes_each))
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, vector: Tensor) -> None:
        """Add a unit vector that is orthogonal to all earlier ones."""
        row = self._length % self._chunk
        if row == 0:
            rows = min(self._chunk, self.capacity - self._length)
            self._chunks.append(
                torch.empty((rows, self._width), dtype=self.dtype, device=self.device)
            )
        self._chunks[-1][row] = vector
        self._length += 1

    def orthogonalise(self, w: Tensor) -> tuple[Tensor, float]:
        """Return w minus its part in the span, and its norm; (w, 0.0) when nothing is left.

        w is overwritten: for long vectors a new one costs more than the arithmetic.

        One pass suffices unless it takes away much of w: then the rounding of what was taken
        is large beside what remains, and a second pass is made ("twice is enough", Kahan and
        Parlett). A third large loss means that w lies in the span to rounding.
        """
        for _ in range(3):
            taken = 0.0  # ‖part taken away‖²: with the rest's it adds up to ‖w‖²
            for rows in (*self._locked, *self._rows()):
                parts = project(rows, w)
                w.addmv_(rows.T, parts, alpha=-1.0)
                taken += float(torch.dot(parts, parts))
            after = norm(w)
            if after * after > taken or after == 0.0 or after != after:
                return w, after
        return w, 0.0

    def fresh(self, generator: torch.Generator) -> Tensor | None:
        """Return a random unit vector orthogonal to the basis, or None when there is none."""
        if self._length >= self.room:
            return None
        for _ in range(8):
            w, length = self.orthogonalise(
                gaussian(self.n, generator=generator, dtype=self.dtype, device=self.device)
            )
            if length > 0.0 and (vector := unit(w)) is not None:
                vector, length = self.orthogonalise(vector)
                if length > 0.0:
                    return vector / length
        return None

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return the sum of c_i q_i, shape (n,), for coefficients (m,)."""
        c = coefficients.to(device=self.device, dtype=self.dtype)
        out = torch.zeros(self._width, dtype=self.dtype, device=self.device)
        for start, rows in zip(range(0, self._length, self._chunk), self._rows(), strict=True):
            out = torch.addmv(out, rows.T, c[start : start + rows.shape[0]])
        return out

    def _rows(self) -> list[Tensor]:
        """Filled rows, chunk by chunk."""
        return [
            chunk[: min(self._chunk, self._length - start)]
            for start, chunk in zip(range(0, self._length, self._chunk), self._chunks, strict=True)
        ]
