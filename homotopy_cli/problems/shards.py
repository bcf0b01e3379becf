"""A model under FSDP2 measured on its shards: no rank ever holds all parameters.

Gradients come from FSDP's own forward and backward, which gather a module's parameters while it
runs and leave each rank the gradient of its shards. That is all differences of gradients need.
The shards are moved in place for each of them and put back from a copy, bit for bit. Every rank
runs the same number of passes, since each one gathers from all: a rank with fewer batches
repeats its first with weight 0.

An error inside the forward pass of one rank cannot be told to the others, which wait for it in a
gather: let it end the process, and torchrun ends the rest.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.parameters import Parameters
from homotopy_cli.problems.reducer import Reducer
from homotopy_cli.problems.sharded import original_class, reshard
from homotopy_cli.problems.wrappers import clean_name

if TYPE_CHECKING:
    from homotopy_cli.problems.problem import Problem

_GATHER = "leave sharded=True out: the parameters are then gathered"


class Shards:
    """Which entries of a flat vector (n,) this rank holds, and how sums run over all ranks.

    A whole vector is in the order of the parameters; a part is this rank's shards in that order.

    Attributes:
        n, length: Entries of a whole vector, and of this rank's part.
        passes: Forward passes that every rank makes for one gradient.
    """

    def __init__(self, parameters: dict[str, Tensor], reducer: Reducer, passes: int) -> None:
        self.reducer, self.passes = reducer, passes
        self._shapes = [p.shape for p in parameters.values()]
        self._dims = [p.placements[0].dim for p in parameters.values()]
        self._sizes = [p.numel() for p in parameters.values()]
        self.n = sum(self._sizes)
        self.length = sum(p.to_local().numel() for p in parameters.values())

    @classmethod
    def of(cls, problem: "Problem") -> "Shards":
        """The layout of a problem's parameters; all ranks must call this."""
        passes = max(problem.reducer.together(lambda: len(problem.batches)))
        return cls(problem.model_params, problem.reducer, passes)

    def part(self, whole: Tensor) -> Tensor:
        """Return this rank's entries of a vector (n,), shape (length,)."""
        parts = []
        pieces = zip(whole.split(self._sizes), self._shapes, self._dims, strict=True)
        for piece, shape, dim in pieces:
            chunks = piece.view(shape).chunk(self.reducer.size, dim=dim)  # as DTensor shards
            if self.reducer.rank < len(chunks):
                parts.append(chunks[self.reducer.rank].reshape(-1))
        return torch.cat(parts) if parts else whole[:0]

    def total(self, partial: Tensor) -> Tensor:
        """Return the sum over ranks, the same bits on each."""
        return self.reducer.sum(partial.clone, partial)


def local_shards(model: nn.Module, reducer: Reducer) -> Parameters:
    """This rank's shards of a model under fully_shard, as a Problem's parameters.

    Raises:
        ProblemError: A parameter is not sharded over just these ranks, or in half precision.
    """
    from torch.distributed.tensor import DTensor, Shard

    reshard(model)
    named = [(clean_name(name), p) for name, p in model.named_parameters()]
    trainable = {name: p for name, p in named if p.requires_grad}
    if not trainable:
        raise ProblemError("no trainable parameter", hint="call requires_grad_(True) on some")
    for name, p in trainable.items():
        where = p.placements if isinstance(p, DTensor) else ()
        if len(where) != 1 or not isinstance(where[0], Shard):
            raise ProblemError(f'parameter "{name}" is not sharded over one mesh', hint=_GATHER)
        if p.device_mesh.size() != reducer.size:
            raise ProblemError(
                f'parameter "{name}" lies on {p.device_mesh.size()} ranks, the reducer has '
                f"{reducer.size}",
                hint="pass reducer=ProcessGroupReducer() of the same ranks",
            )
        if p.dtype not in (torch.float32, torch.float64):
            raise ProblemError(
                f'parameter "{name}" is {str(p.dtype).removeprefix("torch.")}: differences of its '
                "gradient would be rounding",
                hint=_GATHER,
            )
    first = next(iter(trainable.values()))
    return Parameters(
        leaves={name: p.to_local().detach() for name, p in trainable.items()},
        originals=dict(trainable),
        dtype=first.dtype,
        device=first.to_local().device,
        frozen=[name for name, p in named if not p.requires_grad],
        module_kinds={clean_name(n): original_class(m).__name__ for n, m in model.named_modules()},
    )


def loss_and_gradient(
    problem: "Problem", *, look: Callable[[Tensor], None] | None = None
) -> tuple[float, list[Tensor | None]]:
    """(this rank's share of L, this rank's shards of ∇L) at the parameters as they are now.

    Args:
        problem: Built with sharded=True.
        look: Called with each loss before its backward pass.
    """
    originals = list(problem.model_params.values())
    kept = [p.grad for p in originals]
    try:
        for p in originals:
            p.grad = None
        value = 0.0
        for weight, loss in _passes(problem):
            if look is not None:
                look(loss)
            value += weight * float(loss.detach())
            (weight * loss).backward()
        size = problem.shards.reducer.size  # FSDP's reduction is a mean over ranks
        return value, [None if p.grad is None else p.grad.to_local() * size for p in originals]
    finally:
        for p, grad in zip(originals, kept, strict=True):
            p.grad = grad
        reshard(problem.model)


def loss_alone(problem: "Problem") -> float:
    """This rank's share of L, by forward passes only."""
    try:
        with torch.no_grad():
            return sum(weight * float(loss) for weight, loss in _passes(problem))
    finally:
        reshard(problem.model)


@contextmanager
def moved(problem: "Problem", v: Tensor, step: float) -> Iterator[None]:
    """Let the shards be θ + step·v, for this rank's part v; put back bit for bit."""
    shards = [p.to_local() for p in problem.model_params.values()]
    kept = [shard.detach().clone() for shard in shards]
    reshard(problem.model)  # a gathered copy would still hold θ
    try:
        with torch.no_grad():
            parts = v.split([shard.numel() for shard in shards])
            for shard, part in zip(shards, parts, strict=True):
                shard.add_(part.view(shard.shape), alpha=step)
        yield
    finally:
        with torch.no_grad():
            for shard, before in zip(shards, kept, strict=True):
                shard.copy_(before)


def _passes(problem: "Problem") -> Iterator[tuple[float, Tensor]]:
    """(weight, loss) of every pass this rank makes."""
    with problem.measuring():
        for i in range(problem.shards.passes):
            real = i < len(problem.batches)
            yield problem.weights[i] if real else 0.0, problem.batch_loss(i if real else 0)
