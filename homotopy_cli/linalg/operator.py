"""What an iteration may know about a matrix: its size, and its product with a vector."""

from typing import Protocol

import torch
from torch import Tensor


class LinearOperator(Protocol):
    """A symmetric matrix A, shape (n, n), known only by its products."""

    n: int
    dtype: torch.dtype
    device: torch.device

    def matvec(self, v: Tensor) -> Tensor:
        """Return Av, shape (n,); the same matrix at every call. Must not alter or keep v."""
        ...


class DenseOperator:
    """A symmetric matrix held in memory, for small problems and for tests.

    Args:
        matrix: Shape (n, n), symmetric.
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"matrix must be square, got shape {tuple(matrix.shape)}")
        self.matrix = matrix
        self.n = matrix.shape[0]
        self.dtype = matrix.dtype
        self.device = matrix.device
        self.n_matvecs = 0

    def matvec(self, v: Tensor) -> Tensor:
        """Return Av, shape (n,)."""
        self.n_matvecs += 1
        return self.matrix @ v
