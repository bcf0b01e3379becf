"""One Problem over the batches of several ranks, checked to be the same function on each."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.reducer import Reducer

if TYPE_CHECKING:
    from homotopy_cli.problems.problem import Problem

_SAME = 1e-9  # relative: far above a sum's rounding on other hardware, far below another seed


@dataclass(frozen=True)
class _Share:
    """What the ranks tell one another about their parts."""

    n_terms: int
    mass: float  # what this rank's batches weigh together
    shapes: str  # digest of names and shapes
    dtype: str
    sums: tuple[float, float]  # Σθ and ‖θ‖ in float64


def over_ranks(
    assemble: Callable[[], "Problem"], reducer: Reducer, *, sharded: bool = False
) -> "Problem":
    """Build this rank's part, and let its batches weigh their share of all ranks' terms.

    Args:
        assemble: This rank's part, by itself.
        reducer: The ranks.
        sharded: Each rank's parameters are its shards.

    Raises:
        ProblemError: No rank has a loss term, or the ranks hold different parameters.
    """
    if reducer.size == 1:
        return assemble()
    built: list[Problem] = []

    def share() -> _Share:
        built.append(assemble())
        return _share(built[0], sharded)

    shares = reducer.together(share)
    for rank, other in enumerate(shares):
        _check_same(shares[0], other, rank)
    n_terms = sum(share.n_terms for share in shares)
    if n_terms == 0:
        raise no_terms("")
    idle = [rank for rank, share in enumerate(shares) if share.n_terms == 0]
    if sharded and idle:
        raise ProblemError(
            f"rank {idle[0]} has no loss term, and every rank must run the sharded model",
            hint="give every rank a batch with at least one target that counts",
        )
    built[0].share(reducer, n_terms, sum(share.mass for share in shares))
    return built[0]


def no_terms(prefix: str) -> ProblemError:
    """The error for batches in which nothing counts."""
    return ProblemError(
        f"{prefix}no loss term: the batch is empty or every target is ignored",
        hint="give a batch with at least one target that counts",
    )


def _share(problem: "Problem", sharded: bool) -> _Share:
    shapes = repr([(name, tuple(p.shape)) for name, p in problem.model_params.items()])
    leaves = [torch.zeros(1)]  # shards differ, and must
    if not sharded:
        leaves = [p.detach() for p in problem.params.values()]
    sums = torch.stack([p.sum(dtype=torch.float64) for p in leaves]).sum().item()
    norms = [torch.linalg.vector_norm(p, dtype=torch.float64) for p in leaves]
    return _Share(
        problem.n_terms,
        sum(problem.masses),
        hashlib.sha256(shapes.encode()).hexdigest(),
        str(problem.dtype),
        (sums, torch.linalg.vector_norm(torch.stack(norms)).item()),
    )


def _check_same(first: _Share, other: _Share, rank: int) -> None:
    """Refuse ranks that would add the products of different functions."""
    if (first.shapes, first.dtype) != (other.shapes, other.dtype):
        raise ProblemError(
            f"rank {rank} has other parameters than rank 0 (names, shapes or dtype)",
            hint="build the same model on every rank, and freeze the same parameters",
        )
    (a, norm), (b, other_norm) = first.sums, other.sums
    room = _SAME * max(norm, 1e-300)
    if abs(norm - other_norm) > room or abs(a - b) > room * max(1.0, norm):
        raise ProblemError(
            f"rank {rank} holds other weights than rank 0: "
            f"‖θ‖ is {other_norm:.12g} and {norm:.12g}",
            hint="broadcast them first: DistributedDataParallel does, or load the same checkpoint",
        )
