"""The loss as a number, and whether batches cut into chunks still give it."""

from typing import TYPE_CHECKING

import torch

from homotopy_cli.errors import ProblemError

if TYPE_CHECKING:
    from homotopy_cli.problems.problem import Problem


def check_chunks(whole: "Problem", chunked: "Problem", rows: int) -> None:
    """Refuse chunks whose mean is not the loss of the whole; one forward pass each."""
    wanted = total(whole)
    found = total(chunked)
    tolerance = 1e-9 if whole.dtype == torch.float64 else 1e-3
    if not abs(found - wanted) <= tolerance * max(1.0, abs(wanted)) and wanted == wanted:
        raise ProblemError(
            f"--microbatch {rows} changes the loss from {wanted:.6g} to {found:.6g}: "
            "it is not a mean over rows",
            hint="leave --microbatch out (batch statistics couple the rows in train mode)",
        )


def total(problem: "Problem") -> float:
    """L(θ) as a number, accumulated in float64; of several ranks, this one's share of it."""
    with problem.measuring():
        losses = [problem.batch_loss(i).item() for i in range(len(problem.batches))]
    return sum(w * value for w, value in zip(problem.weights, losses, strict=True))
