"""The gradient of a Problem with its graph kept, and Hessian products from that graph.

Hv is the derivative of gᵀv: one backward pass through the graph of g, about two gradients' cost;
building the graph costs about one, and it is built once, never per product. `autograd.grad`
only: `backward(create_graph=True)` would tie parameters and gradients into a reference cycle that
leaks.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from homotopy_cli.curvature import differences
from homotopy_cli.curvature.backward import along, flat, gradients, has_one_derivative_only
from homotopy_cli.curvature.facts import Facts, merged
from homotopy_cli.curvature.finite import require_finite
from homotopy_cli.curvature.meter import Meter, plain_gradient
from homotopy_cli.curvature.nodes import has_dead_end, operations
from homotopy_cli.curvature.steps import Steps, calibrate
from homotopy_cli.errors import ProblemError, first_line
from homotopy_cli.linalg.vectors import norm
from homotopy_cli.problems.problem import Problem
from homotopy_cli.records import BlockState

Method = Literal[
    "auto", "double_backward", "forward_over_reverse", "central_difference", "forward_difference"
]


class GradientGraph:
    """g = ∇L at the Problem's parameters, and v ↦ Hv from its graph.

    Parameters are concatenated in the order of `problem.params`. Three states are kept apart:
    a parameter the loss never reaches, one whose gradient is constant (a zero block of H), and
    one that is reached; none of them may crash a product.

    Over several ranks (see `problems.reducer`) graphs are local and vectors are sums: one
    all-reduce for the gradient and one for each product. Every decision rests on what all know.

    Args:
        problem: Fixed batches, weights and parameters.
        method: "auto" differentiates twice and falls back to central differences of the
            gradient when an operation has no second derivative; `fallback_reason` says so.
        keep_graph: False rebuilds the graph of one batch after another in every product:
            about 1.7 times slower, but only one batch's graph is in memory.
        inspect: Look through the loss's graph for kinks and custom functions.

    Attributes:
        loss: L, weighted over the batches.
        grad: g, shape (n,).
        meter: What was spent so far.
        kinked, custom: Operations with kinks and custom autograd functions, when inspected.

    Raises:
        NonFiniteError: The loss or the gradient holds NaN or infinity.
        ProblemError: The problem has no parameter, or cannot be differentiated.
    """

    matrix = "hessian"
    _guarded: tuple[str, ...] = ("double_backward", "forward_over_reverse")  # may be refused

    def __init__(
        self,
        problem: Problem,
        *,
        method: Method = "auto",
        keep_graph: bool = True,
        inspect: bool = False,
    ) -> None:
        if not problem.params:
            raise ProblemError(
                "no trainable parameter: every parameter is frozen (requires_grad=False)",
                hint="unfreeze the parameters whose curvature you want",
            )
        if problem.shards is not None:
            raise ProblemError(
                "whole parameters are needed here, and these are sharded (FSDP2)",
                hint="leave sharded=True out: the parameters are then gathered",
            )
        self.problem = problem
        self.names = tuple(problem.params)
        self.keep_graph = keep_graph
        self.method = "double_backward" if method == "auto" else method
        self.fallback_reason, self.meter = "", Meter()
        self.dtype, self.device = problem.dtype, problem.device
        self._batches = range(len(problem.batches))
        self._may_fall_back = method == "auto"
        self._dead_end = False
        self._inspect = inspect
        self.kinked: tuple[str, ...] = ()
        self.custom: tuple[str, ...] = ()
        self._index = {name: i for i, name in enumerate(self.names)}
        sizes = [param.numel() for param in problem.params.values()]
        ends = zip(self.names, sizes, accumulate(sizes), strict=True)
        self._slices = {name: slice(end - size, end) for name, size, end in ends}
        self.n = sum(sizes)
        self._grads: list[Tensor | None]
        self._constant: set[str] | frozenset[str]
        self.reducer = problem.reducer
        facts = merged(self.reducer.together(self._opened))
        self.loss, self.kinked, self.custom = facts.loss, facts.kinked, facts.custom
        self._reached, self._constant = facts.reached, facts.constant
        if facts.dead_end:
            self._fall_back(ProblemError("an operation is marked @once_differentiable"))
        like = problem.params[self.names[0]].detach().new_empty(()).expand(self.n)
        self.grad = self.reducer.sum(lambda: self._flatten(self.names, self._grads).detach(), like)
        require_finite(self.loss, {n: self.grad[self._slices[n]] for n in self.names})

    def _opened(self) -> Facts:
        """Take this rank's gradient, and tell what it shows."""
        self._open()
        if self.reducer.size > 1:
            require_finite(self.loss, {})  # here it can still be said on which rank
        found = {n for n, g in zip(self.names, self._grads, strict=True) if g is not None}
        found, constant = frozenset(found), frozenset(self._constant)
        return Facts(self.loss, found, constant, self._dead_end, self.kinked, self.custom)

    def _open(self) -> None:
        """Take the gradient, with its graph where products will walk it."""
        twice = self.method == "double_backward"
        if self.keep_graph and twice:
            with self.problem.measuring():
                self.loss, self._grads = self._differentiate(self._batches, create_graph=True)
            self._constant = self._without_graph(self._grads)
        else:
            self.loss, self._grads, self._constant = self._gradient_by_batch(twice)

    def state_of(self, name: str) -> BlockState:
        """Return how the loss depends on one parameter."""
        if name not in self._reached:
            return "not_reached"
        return "constant_gradient" if name in self._constant else "reached"

    def slice_of(self, name: str) -> slice:
        """Return where a parameter lies in the flat vector."""
        return self._slices[name]

    def gather(self, names: Sequence[str], vector: Tensor) -> Tensor:
        """Return the entries of a flat vector (n,) that belong to `names`, in their order."""
        return torch.cat([vector[self.slice_of(name)] for name in names])

    def hvp(self, v: Tensor) -> Tensor:
        """Return Hv, shape (n,), for v of shape (n,)."""
        with self.meter.product((self.method, *self.names)):
            return self._summed(self.names, v)

    def block_hvp(self, names: Sequence[str], v: Tensor) -> Tensor:
        """Return H_bb v, shape (n_b,), walking only the block's own part of the graph.

        Args:
            names: The block's parameters, in the order of the problem.
            v: Shape (n_b,).
        """
        with self.meter.product((self.method, *names), v.numel() / self.n):
            return self._summed(tuple(names), v)

    def gradients_beside(self, v: Tensor, steps: Sequence[float]) -> list[Tensor]:
        """Return g(θ + s·v), shape (n,), for each s of `steps`; one gradient each."""
        self.meter.n_gradients += len(steps)
        return self._beside(self.names, v, steps)

    def difference(self, names: tuple[str, ...], v: Tensor) -> Tensor:
        """Return H_bb v as a forward difference on the gradient held here: one gradient."""
        return differences.forward_difference(
            v,
            lambda direction, steps: self._beside(names, direction, steps),
            step=self.steps.forward,
            here=self.grad if names == self.names else self.gather(names, self.grad),
        )

    @cached_property
    def steps(self) -> Steps:
        """Lengths of finite steps, chosen once; two gradients, seldom up to eight."""
        return calibrate(
            self.gradients_beside, self.grad, param_norm=norm(self.problem.flat_params())
        )

    @property
    def n_hvp(self) -> float:
        """Products so far; a block's counts by its share of the parameters."""
        return self.meter.n_whole

    def time_gradient(self) -> float:
        """Return the time of one forward and backward pass, on the products' clock."""
        return plain_gradient(self.problem, self.meter.clock)

    def release(self) -> None:
        """Free the graph, after the last product."""
        self._grads.clear()

    def _summed(self, names: tuple[str, ...], v: Tensor) -> Tensor:
        """The product over all ranks; where one has to fall back, all do."""
        if self.method == "forward_difference" and self.matrix == "hessian":
            return self.difference(names, v)
        if self.method.endswith("_difference"):
            self.steps  # noqa: B018  measured by all ranks together, so before each works alone
        try:
            return self.reducer.sum(lambda: self._product(names, v), v)
        except RuntimeError as error:
            if self.method not in self._guarded:
                raise
            self._refused(error)
        return self._summed(names, v)

    def _beside(self, names: tuple[str, ...], v: Tensor, steps: Sequence[float]) -> list[Tensor]:
        """∇L over all ranks, restricted to `names`, at θ + s·v for each s of `steps`."""

        def at(step: float) -> Tensor:
            here = self._gradient_here
            return differences.gradients_along(self.problem, names, v, (step,), here)[0]

        return [self.reducer.sum(lambda s=step: at(s), v) for step in steps]

    def _product(self, names: tuple[str, ...], v: Tensor) -> Tensor:
        """This rank's share of the product, without a word to the others."""
        if self.method == "central_difference":
            return differences.central_difference(
                self.problem, names, v, self._gradient_here, step=self.steps.central
            )
        if self.method == "forward_over_reverse":
            return differences.forward_over_reverse(self.problem, names, v)
        if self.keep_graph:
            return self._walk(self._grads, names, v)
        return self._rebuilding(names, v)

    def _walk(self, grads: Sequence[Tensor | None], names: tuple[str, ...], v: Tensor) -> Tensor:
        params = [self.problem.params[name] for name in names]
        return along([grads[self._index[name]] for name in names], params, v)

    def _refused(self, error: RuntimeError) -> None:
        """Fall back where an operation has no second derivative; explain all else."""
        if isinstance(error, torch.OutOfMemoryError):
            raise error
        reason = first_line(error)
        if not has_one_derivative_only(reason):
            raise ProblemError(
                f"the Hessian product failed: {reason}",
                hint="take products before optimizer.step(), and avoid in-place operations",
            ) from error
        self._fall_back(error)

    def _fall_back(self, error: Exception) -> None:
        """Go on with differences of gradients, or refuse where the method was prescribed."""
        reason = first_line(error)
        if not self._may_fall_back:
            raise ProblemError(
                f"the loss cannot be differentiated twice: {reason}",
                hint="use --hvp auto or --hvp central_difference",
            ) from error
        self.method, self.fallback_reason = "central_difference", reason
        self._grads = [None if g is None else g.detach() for g in self._grads]

    def _rebuilding(self, names: tuple[str, ...], v: Tensor) -> Tensor:
        """The same product with one batch's graph in memory at a time."""
        total = torch.zeros_like(v)
        for i in self._batches:
            with self.problem.measuring():
                _, grads = self._differentiate([i], create_graph=True)
            total += self._walk(grads, names, v)
            del grads  # before the next graph is built
        return total

    def _differentiate(
        self, batches: Sequence[int], *, create_graph: bool
    ) -> tuple[float, list[Tensor | None]]:
        """Weighted loss and gradient over some batches."""
        params = list(self.problem.params.values())
        value, loss = 0.0, None
        for i in batches:
            term = self.problem.weights[i] * self.problem.batch_loss(i)
            value += float(term.detach())
            loss = term if loss is None else loss + term
        if loss is None or not loss.requires_grad:
            return value, [None] * len(params)
        if self._inspect:
            (self.kinked, self.custom), self._inspect = operations(loss), False
        grads = gradients(loss, params, create_graph=create_graph)
        if create_graph:
            self._dead_end |= has_dead_end(grads)
        return value, grads

    def _gradient_by_batch(self, create_graph: bool) -> tuple[float, list[Tensor | None], set[str]]:
        """L, detached g and the constant parts of g, with one batch in memory at a time."""
        value = 0.0
        total: list[Tensor | None] = [None] * len(self.names)
        constant = set(self.names) if create_graph else set()
        with self.problem.measuring():
            for i in self._batches:
                loss, grads = self._differentiate([i], create_graph=create_graph)
                value += loss
                constant &= self._without_graph(grads)
                for j, grad in enumerate(grads):
                    if grad is not None:
                        part = grad.detach()
                        total[j] = part if total[j] is None else total[j] + part
                del grads, grad  # and their graph, before the next is built
        return value, total, constant

    def _gradient_here(self, names: tuple[str, ...]) -> Tensor:
        """∇L restricted to `names`, at the parameters that the problem holds now."""
        return self._flatten(names, self._gradient_by_batch(create_graph=False)[1])

    def _flatten(self, names: Sequence[str], grads: Sequence[Tensor | None]) -> Tensor:
        """Concatenate the gradients of `names`, zeros where there is none."""
        params = [self.problem.params[name] for name in names]
        return flat([grads[self._index[name]] for name in names], params)

    def _without_graph(self, grads: Sequence[Tensor | None]) -> set[str]:
        """Names whose gradient does not depend on the parameters."""
        return {
            name
            for name, grad in zip(self.names, grads, strict=True)
            if grad is None or not grad.requires_grad
        }
