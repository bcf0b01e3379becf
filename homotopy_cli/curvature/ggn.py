"""Products with the Gauss-Newton matrix G = Σ_b w_b J_b' H_out J_b, J = ∂outputs/∂θ.

G drops the model's own second derivatives, so it is positive semidefinite for a convex
criterion, and equals H where the model is linear in θ or fits perfectly. It needs the seam
loss = criterion(outputs); a user's loss(model, batch) has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from homotopy_cli.curvature import differences
from homotopy_cli.curvature.backward import gradients
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.curvature.nodes import has_dead_end, operations
from homotopy_cli.curvature.sharded import ShardedGraph
from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.problem import Problem


@dataclass(frozen=True)
class _Seam:
    """One batch, cut where the outputs enter the criterion."""

    outputs: Tensor  # z, with its graph back to θ
    cut: Tensor  # the same numbers, a leaf
    slope: Tensor | None  # ∂criterion/∂cut, with its graph; None where z has no effect
    value: float  # the criterion
    probe: Tensor  # u, a leaf in the shape of z
    rows: tuple[Tensor | None, ...]  # J'u for each parameter, with its graph back to u

    def bend(self, tangent: Tensor) -> Tensor | None:
        """Return H_out·tangent; None where the criterion is linear in the outputs."""
        if self.slope is None or not self.slope.requires_grad:
            return None
        return torch.autograd.grad(
            self.slope, self.cut, grad_outputs=tangent, retain_graph=True, allow_unused=True
        )[0]


class GGNGraph(GradientGraph):
    """g = ∇L, and v ↦ Gv: forward through J, through the criterion's Hessian, back through J'.

    Jv is the derivative of u ↦ v'J'u, a backward pass through a backward pass, about the cost
    of a Hessian product; where an operation has no second derivative, it is a central
    difference of the outputs, which kinks in the model do not upset: outputs are continuous.

    Args and attributes: as `GradientGraph`.

    Raises:
        ProblemError: The loss cannot be split into outputs and a criterion, or the outputs are
            not one tensor.
    """

    matrix = "ggn"
    _guarded = ("double_backward", "forward_over_reverse")

    def _open(self) -> None:
        self._seams: dict[int, _Seam] = {}
        self.loss, total = 0.0, [None] * len(self.names)
        bends = False
        for i in self._batches:
            seam = self._seam(i)
            weight = self.problem.weights[i]
            self.loss += weight * seam.value
            self._dead_end |= has_dead_end(seam.rows)
            bends |= seam.slope is not None and seam.slope.requires_grad
            if seam.slope is None:
                continue
            pulled = self._pull_back(seam, self.names, weight * seam.slope.detach())
            for j, part in enumerate(pulled):
                if part is not None:
                    total[j] = part if total[j] is None else total[j] + part
        self._grads = total
        self._constant = set() if bends else set(self.names)

    def release(self) -> None:
        """Free the graphs, after the last product."""
        super().release()
        self._seams.clear()

    def _seam(self, index: int) -> _Seam:
        """Cut one batch open; kept when graphs are kept."""
        if index in self._seams:
            return self._seams[index]
        outputs, criterion = self.problem.batch_outputs(index)
        if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
            raise ProblemError(
                f"the Gauss-Newton matrix needs one tensor of outputs, the model returns "
                f"{type(outputs).__name__}",
                hint="--curvature hessian",
            )
        if self._inspect:
            (self.kinked, self.custom), self._inspect = operations(outputs), False
        cut = outputs.detach().requires_grad_()
        with self.problem.measuring():
            value = criterion(cut)
            slope = None
            if value.requires_grad:
                slope = torch.autograd.grad(value, cut, create_graph=True, allow_unused=True)[0]
        probe = torch.zeros_like(cut, requires_grad=True)
        rows: Sequence[Tensor | None] = [None] * len(self.names)
        if outputs.requires_grad and self.method == "double_backward":
            params = list(self.problem.params.values())
            rows = gradients(outputs, params, grad_outputs=probe, create_graph=True)
        seam = _Seam(outputs, cut, slope, value.item(), probe, tuple(rows))
        if self.keep_graph:
            self._seams[index] = seam
        return seam

    def _product(self, names: tuple[str, ...], v: Tensor) -> Tensor:
        total = torch.zeros_like(v)
        for i in self._batches:
            seam = self._seam(i)
            tangent = self._tangent(i, seam, names, v)
            bent = None if tangent is None else seam.bend(tangent)
            if bent is None:
                continue
            pulled = self._pull_back(seam, names, self.problem.weights[i] * bent)
            shapes = [self.problem.params[name].numel() for name in names]
            total += torch.cat(
                [
                    part.new_zeros(size) if row is None else row.reshape(-1)
                    for row, size, part in zip(pulled, shapes, v.split(shapes), strict=True)
                ]
            )
        return total

    def _tangent(self, index: int, seam: _Seam, names: tuple[str, ...], v: Tensor) -> Tensor | None:
        """Jv restricted to `names`, in the shape of the outputs."""
        if self.method.endswith("_difference"):
            return self._tangent_by_difference(index, names, v)
        if self.method == "forward_over_reverse":
            return differences.tangent(self.problem, names, v, lambda: self._outputs(index))
        params = [self.problem.params[name] for name in names]
        rows, directions = [], []
        for name, part in zip(names, v.split([p.numel() for p in params]), strict=True):
            row = seam.rows[self._index[name]]
            if row is not None and row.requires_grad:
                rows.append(row)
                directions.append(part.view(row.shape))
        if not rows:
            return None
        return torch.autograd.grad(
            rows, seam.probe, grad_outputs=directions, retain_graph=True, allow_unused=True
        )[0]

    def _tangent_by_difference(self, index: int, names: tuple[str, ...], v: Tensor) -> Tensor:
        return differences.central_difference(
            self.problem,
            names,
            v,
            lambda _: self._outputs(index).detach(),
            step=self.steps.central,
        )

    def _outputs(self, index: int) -> Any:
        return self.problem.batch_outputs(index)[0]

    def _pull_back(
        self, seam: _Seam, names: Sequence[str], cotangent: Tensor
    ) -> list[Tensor | None]:
        """J'cotangent for each of `names`."""
        if not seam.outputs.requires_grad:
            return [None] * len(names)
        params = [self.problem.params[name] for name in names]
        rows = gradients(seam.outputs, params, grad_outputs=cotangent, retain_graph=True)
        return [None if row is None else row.detach() for row in rows]


def gradient_graph(problem: Problem, curvature: str, **options: Any) -> GradientGraph:
    """Return the graph whose products are with G for curvature "ggn", with H otherwise."""
    if problem.shards is not None:
        return ShardedGraph(problem, **options)
    return (GGNGraph if curvature == "ggn" else GradientGraph)(problem, **options)
