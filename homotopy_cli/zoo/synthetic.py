"""The examples of the quadratic model: row numbers, whose gradients average to the exact one."""

import torch

from homotopy_cli.recipe.datasets import QuadraticData
from homotopy_cli.zoo.data import DataInfo, Rows

N_ROWS = 64  # our choice: small enough for full-batch probes, large enough for noise


def build_quadratic_rows(spec: QuadraticData) -> Rows:
    """Row numbers 0..63; the model tilts its loss by a fixed random vector per row."""
    rows = torch.arange(N_ROWS)
    said = f"noise {spec.noise:g} per gradient component" if spec.noise else "no noise"
    info = DataInfo(
        kind="none",
        description=f"{N_ROWS} tilts of a quadratic, {said}",
        n_rows=N_ROWS,
        noise=spec.noise,
        baseline={"minimum": 0.0},
    )
    return _QuadraticRows(info, (rows,), (rows,))


class _QuadraticRows(Rows):
    """Any batch size: rows are drawn with replacement once a batch needs more than there are."""

    def batch(self, step: int, batch_size: int, seed: int) -> torch.Tensor:
        """Row numbers, (batch_size,) int64."""
        whole, rest = divmod(batch_size, self.n_train)
        parts = [torch.arange(self.n_train)] * whole
        if rest:
            parts.append(super().batch(step, rest, seed)[0])
        return torch.cat(parts)

    def eval_batches(self, batch_size: int, n: int) -> list[torch.Tensor]:
        """All rows: the mean over them is the exact quadratic."""
        return [torch.arange(self.n_train)]
