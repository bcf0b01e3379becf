"""½θ'Aθ with eigenvalues known in closed form: the probe's and the schedulers' first oracle."""

import torch
from torch import Tensor, nn

from homotopy_cli.zoo.randomness import keyed_generator

N_REFLECTIONS = 3  # our choice: enough that no eigenvector is near a coordinate axis


class Quadratic(nn.Module):
    """L(θ) = ½ Σ λᵢ wᵢ², w = Qθ; eigenvalues spaced evenly in log from largest/condition up.

    Q is a product of Householder reflections, so it is orthogonal to rounding and the Hessian
    Q'ΛQ has exactly the eigenvalues in `eigenvalues`. Row r of a batch adds noise·tᵣ'θ with
    fixed vectors tᵣ that sum to 0 over all rows: the mean loss over all rows is the exact
    quadratic, its minimum 0 at θ = 0.
    """

    def __init__(
        self,
        dim: int = 20,
        *,
        condition: float = 100.0,
        largest: float = 1.0,
        rotated: bool = True,
        noise: float = 0.0,
        n_rows: int = 1,
    ) -> None:
        super().__init__()
        powers = torch.linspace(0, 1, dim, dtype=torch.float64) if dim > 1 else torch.ones(1)
        kind = torch.get_default_dtype()
        self.register_buffer("eigenvalues", (largest / condition * condition**powers).to(kind))
        generator = keyed_generator(dim, 1)
        vectors = torch.randn(N_REFLECTIONS if rotated else 0, dim, generator=generator)
        self.register_buffer("reflections", vectors.to(kind))
        tilts = torch.randn(n_rows, dim, generator=generator, dtype=torch.float64)
        tilts = noise * (tilts - tilts.mean(dim=0))
        self.register_buffer("tilts", tilts.to(kind))
        self.theta = nn.Parameter(torch.randn(dim))

    def rotate(self, theta: Tensor) -> Tensor:
        """Qθ, (dim,)."""
        for u in self.reflections:
            theta = theta - u * (2 * (u @ theta) / (u @ u))
        return theta

    def forward(self, rows: Tensor | None = None) -> dict[str, Tensor]:
        """{"loss": mean over the rows (B,) int64}; without rows, the exact quadratic."""
        w = self.rotate(self.theta)
        loss = 0.5 * (self.eigenvalues * w * w).sum()
        if rows is not None:
            loss = loss + self.tilts[rows].mean(dim=0) @ self.theta
        return {"loss": loss}
