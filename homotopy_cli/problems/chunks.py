"""The loss as a number, and whether batches cut into chunks still give it, or sum to it."""

from typing import TYPE_CHECKING

import torch

from homotopy_cli.errors import HomotopyError, ProblemError
from homotopy_cli.problems.criteria import NAMES
from homotopy_cli.problems.nest import n_rows, split_rows

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


def seems_summed(problem: "Problem") -> str:
    """A note where a loss of the user's sums over rows, and several batches are averaged; or "".

    One forward pass over the first batch and one over its halves: of a mean, the halves' mean is
    the whole; of a sum, their sum.
    """
    loss, batches = problem.loss, problem.batches
    first = next((i for i, batch in enumerate(batches) if n_rows(batch) > 1), None)
    if len(batches) < 2 or first is None or loss.sums or loss.name in NAMES:
        return ""
    try:
        with problem.measuring():
            halves = problem.on(split_rows(batches[first], (n_rows(batches[first]) + 1) // 2))
            whole = problem.batch_loss(first).item()
            parts = [halves.batch_loss(i).item() for i in range(len(halves.batches))]
    except HomotopyError:
        return ""
    added = abs(sum(parts) - whole) <= 1e-4 * abs(whole)
    if len(parts) < 2 or not added or abs(sum(parts) / len(parts) - whole) < 0.1 * abs(whole):
        return ""
    return (
        f"loss {loss.name} seems to sum over rows: of the {len(batches)} batches' sums the mean "
        "was taken, weighted by terms, which is no loss over all rows; let it return a mean"
    )


def total(problem: "Problem") -> float:
    """L(θ) as a number, accumulated in float64; of several ranks, this one's share of it."""
    with problem.measuring():
        losses = [problem.batch_loss(i).item() for i in range(len(problem.batches))]
    return sum(w * value for w, value in zip(problem.weights, losses, strict=True))
