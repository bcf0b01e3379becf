"""Products of a model whose parameters stay sharded: differences of FSDP's own gradients.

Vectors are this rank's parts (linalg.vectors.spread_out). Memory per product is that of a
training step and two parts; accuracy that of differences, about 1e-8 in float64.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from homotopy_cli.curvature.backward import flat
from homotopy_cli.curvature.finite import require_finite
from homotopy_cli.curvature.hvp import GradientGraph, Method
from homotopy_cli.curvature.meter import Meter, fastest
from homotopy_cli.curvature.nodes import operations
from homotopy_cli.errors import ProblemError
from homotopy_cli.linalg.vectors import norm, whole_length
from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.shards import loss_alone, loss_and_gradient, moved

_WHY = "parameters are sharded (FSDP2), and a sharded backward pass cannot be differentiated again"
_HINT = "leave sharded=True out: the parameters are then gathered"
_OFF = 0.2  # between slope and gradient: our choice; a wrong divisor is off by 2 or more
_CLEAR = 100.0  # units of eps·|L| that the change of the loss must exceed to be judged


class ShardedGraph(GradientGraph):
    """g = ∇L and v ↦ Hv over all ranks, each holding its shards; no graph is kept.

    Args and attributes: as `GradientGraph`; vectors are this rank's parts.

    Raises:
        ProblemError: Another method than differences is asked for, or FSDP's gradient is not
            that of the mean loss (another divisor is set, or its reduction is switched off).
    """

    def __init__(self, problem: Problem, *, method: Method = "auto", **_: Any) -> None:
        if method not in ("auto", "central_difference", "forward_difference"):
            raise ProblemError(f"hvp={method} is not possible: {_WHY}", hint=_HINT)
        self.problem, self.names = problem, tuple(problem.params)
        self.keep_graph, self._may_fall_back = False, False
        self.method = "central_difference" if method == "auto" else method
        self.fallback_reason = _WHY if method == "auto" else ""
        self.n, self.meter = problem.n_params, Meter()
        self.dtype, self.device, self.reducer = problem.dtype, problem.device, problem.reducer
        self.kinked, self.custom = (), ()
        self._index = {name: i for i, name in enumerate(self.names)}
        self._constant: set[str] = set()
        kinked: set[str] = set()
        share, grads = loss_and_gradient(problem, look=lambda x: kinked.update(operations(x)[0]))
        reached = {n for n, g in zip(self.names, grads, strict=True) if g is not None}
        told = self.reducer.together(lambda: (share, reached, kinked))
        self.loss = sum(value for value, _, _ in told)
        self._reached = frozenset().union(*(names for _, names, _ in told))
        self.kinked = tuple(sorted(set().union(*(names for _, _, names in told))))
        self.grad = flat(grads, list(problem.params.values()))
        if whole_length(self.grad) != self.n:
            raise TypeError("products of a sharded problem belong inside vectors.spread_out")
        named = dict(zip(self.names, grads, strict=True))
        self.reducer.together(
            lambda: require_finite(self.loss, {n: g for n, g in named.items() if g is not None})
        )
        self._compare_with_slope()

    def release(self) -> None:
        """No graph is kept."""

    def block_hvp(self, names: Sequence[str], v: Tensor) -> Tensor:
        """Refused: a block's vectors would be parts of another length."""
        raise ProblemError(f"the layers' table is not possible: {_WHY}", hint=_HINT)

    def time_gradient(self) -> float:
        """Return the time of one forward and backward pass: as often on all ranks."""
        return fastest(lambda: loss_and_gradient(self.problem), self.meter.clock, enough=0.0)

    def _summed(self, names: tuple[str, ...], v: Tensor) -> Tensor:
        if self.method == "forward_difference":
            return self.difference(names, v)
        length = norm(v)
        if length == 0.0:
            return torch.zeros_like(v)
        h = self.steps.central / length
        above, below = self._beside(names, v, (h, -h))
        return (above - below) / (2.0 * h)

    def _beside(self, names: tuple[str, ...], v: Tensor, steps: Sequence[float]) -> list[Tensor]:
        found = []
        for step in steps:
            with moved(self.problem, v, step):
                grads = loss_and_gradient(self.problem)[1]
            found.append(flat(grads, list(self.problem.params.values())))
        return found

    def _compare_with_slope(self) -> None:
        """Refuse a gradient that is not the loss's slope: FSDP can scale it, or not sum it."""
        if not self._reached:
            raise ProblemError(
                "no gradient came to the shards: FSDP's reduction is switched off, or the loss "
                "does not depend on them",
                hint="undo set_requires_gradient_sync(False)",
            )
        length, size = norm(self.grad), norm(self.problem.flat_params())
        step = torch.finfo(self.dtype).eps ** (1 / 3) * max(1.0, size) / 30.0
        direction = self.grad / length if length > 0.0 else torch.zeros_like(self.grad)
        values = []
        for s in (step, -step):
            with moved(self.problem, direction, s):
                share = loss_alone(self.problem)
            values.append(sum(self.reducer.together(lambda share=share: share)))
        change, expected = values[0] - values[1], 2.0 * step * length
        clear = _CLEAR * torch.finfo(self.dtype).eps * abs(self.loss)
        told = max(abs(change), expected) > clear
        if told and abs(change - expected) > _OFF * max(abs(change), expected):
            raise ProblemError(
                f"FSDP's gradient is not that of the mean loss: along it the loss changes by "
                f"{change:.3g}, it says {expected:.3g}",
                hint="undo set_gradient_divide_factor",
            )


def refuse_on_shards(partition: Any, preconditioner: Any, config: Any) -> None:
    """Raise for what cannot be measured on shards."""
    asked = {
        "the layers' table": partition is not None and config.blocks,
        "preconditioned curvature": preconditioner is not None,
        f"curvature={config.curvature}": config.curvature != "hessian",
        "the density": config.density,
        "hutch++": config.trace_method == "hutch++",
    }
    for what, wanted in asked.items():
        if wanted:
            raise ProblemError(f"{what} is not possible: {_WHY}", hint=_HINT)
