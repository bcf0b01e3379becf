"""The loss as a number, and whether batches cut into chunks still give it, or sum to it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from homotopy_cli.errors import HomotopyError, ProblemError
from homotopy_cli.problems.criteria import NAMES
from homotopy_cli.problems.nest import Batch, n_rows, split_rows

if TYPE_CHECKING:
    from homotopy_cli.problems.problem import Problem


def check_chunks(
    whole: "Problem",
    chunked: "Problem",
    rows: int,
    build: Callable[[Sequence[Batch], Sequence[str]], "Problem"],
) -> None:
    """Refuse chunks whose mean is not the loss of the whole, or whose gradient is not its own.

    One forward pass each; and one gradient of the first two chunks, at once and apart, whose
    memory is that of two chunks. Rounding is relative to what is added, never to 1: a small loss
    must agree as well as a large one. Batch statistics are refused without a comparison.

    Args:
        whole, chunked: The same batches, uncut and cut.
        rows: Of a chunk.
        build: (batches, labels) -> a Problem of the same parameters.
    """
    tolerance = 1e-9 if whole.dtype == torch.float64 else 1e-3
    wanted, size = _added(whole)
    found, other_size = _added(chunked)
    room = tolerance * max(size, other_size) + 8.0 * torch.finfo(whole.dtype).eps
    if not abs(found - wanted) <= room and wanted == wanted:
        raise ProblemError(
            f"--microbatch {rows} changes the loss from {wanted:.6g} to {found:.6g}: "
            "it is not a mean over rows",
            hint="leave --microbatch out (batch statistics couple the rows in train mode)",
        )
    apart = _gradients_apart(whole, rows, build)
    if apart > 10.0 * tolerance:
        raise ProblemError(
            f"--microbatch {rows} changes the gradient by {apart:.1e} of its length: "
            "the loss is not a mean over rows",
            hint="leave --microbatch out (batch statistics couple the rows in train mode)",
        )
    name = next((n for n, m in whole.model.named_modules() if _pools(m, whole.mode)), None)
    if name is not None:
        raise ProblemError(
            f'--microbatch {rows}: module "{name}" normalises by the statistics of the whole '
            "batch, which chunks do not have",
            hint="leave --microbatch out, or measure in --mode eval",
        )


def _pools(module: nn.Module, mode: str) -> bool:
    """Batch normalisation that takes its statistics from the batch."""
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return False
    training = module.training if mode == "keep" else mode == "train"
    return training or module.running_mean is None


def _gradients_apart(
    whole: "Problem", rows: int, build: Callable[[Sequence[Batch], Sequence[str]], "Problem"]
) -> float:
    """‖g of two chunks at once - their mean gradient‖, over the length of what is added."""
    batch = next((batch for batch in whole.batches if n_rows(batch) > rows), None)
    if batch is None:
        return 0.0
    joint = split_rows(batch, 2 * rows)[0]
    try:
        together, length = _gradient(build([joint], [""]))
        parts, of_parts = _gradient(build(split_rows(joint, rows), ["", ""]))
    except (HomotopyError, RuntimeError):  # whoever needs a gradient says what it lacks
        return 0.0
    largest = max(length, of_parts)
    return torch.linalg.vector_norm(together - parts).item() / largest if largest > 0.0 else 0.0


def _gradient(problem: "Problem") -> tuple[Tensor, float]:
    """(∇L, Σ w‖∇l_b‖) of this rank's batches."""
    leaves, length = list(problem.params.values()), 0.0
    total = torch.zeros(problem.n_params, dtype=problem.dtype, device=problem.device)
    with problem.measuring(), torch.enable_grad():
        for i, weight in enumerate(problem.weights):
            found = torch.autograd.grad(problem.batch_loss(i), leaves, allow_unused=True)
            dense = [
                torch.zeros_like(p) if g is None else g.to_dense() if g.is_sparse else g
                for p, g in zip(leaves, found, strict=True)
            ]
            part = weight * torch.cat([g.detach().reshape(-1) for g in dense])
            total += part
            length += torch.linalg.vector_norm(part).item()
    return total, length


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
    return _added(problem)[0]


def _added(problem: "Problem") -> tuple[float, float]:
    """(L(θ), Σ w|l_b|), accumulated in float64."""
    with problem.measuring():
        losses = [problem.batch_loss(i).item() for i in range(len(problem.batches))]
    parts = [w * value for w, value in zip(problem.weights, losses, strict=True)]
    return sum(parts), sum(map(abs, parts))
