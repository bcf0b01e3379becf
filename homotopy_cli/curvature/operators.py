"""Hessian products as symmetric operators on flat vectors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.linalg.operator import LinearOperator


def product_error(graph: GradientGraph) -> float:
    """Return the relative error ‖error‖/‖Hv‖ to expect of a graph's products beyond rounding.

    0 for those by differentiation; of differences what `steps` expects, truncation and rounding.
    """
    if not graph.method.endswith("_difference"):
        return 0.0
    forward = graph.method == "forward_difference" and graph.matrix == "hessian"
    return graph.steps.forward_error if forward else graph.steps.central_error


class HessianOperator:
    """H = ∇²L over all parameters, shape (n, n), unit loss/parameter².

    Args:
        graph: The gradient whose graph gives the products; one product costs about two
            gradients.
    """

    def __init__(self, graph: GradientGraph) -> None:
        self.graph = graph
        self.n, self.dtype, self.device = graph.n, graph.dtype, graph.device

    @property
    def product_error(self) -> float:
        """See `product_error`; may take two gradients."""
        return product_error(self.graph)

    def matvec(self, v: Tensor) -> Tensor:
        """Return Hv, shape (n,)."""
        return self.graph.hvp(v)


class BlockOperator:
    """H_bb: second derivatives with respect to the parameters of one block only.

    Args:
        graph: The gradient shared by all blocks.
        names: The block's parameters; put into the problem's order.
    """

    def __init__(self, graph: GradientGraph, names: Sequence[str]) -> None:
        self.graph = graph
        self.names = tuple(sorted(names, key=graph.names.index))
        self.n = sum(graph.problem.params[name].numel() for name in self.names)
        self.dtype, self.device = graph.dtype, graph.device

    @property
    def product_error(self) -> float:
        """See `product_error`; may take two gradients."""
        return product_error(self.graph)

    def matvec(self, v: Tensor) -> Tensor:
        """Return H_bb v, shape (n_b,); walks only the block's part of the graph."""
        return self.graph.block_hvp(self.names, v)


class PreconditionedOperator:
    """P^-1/2 A P^-1/2 for a positive diagonal P: the spectrum of P⁻¹A, but symmetric.

    Args:
        operator: A, shape (n, n), symmetric.
        inv_sqrt: P^-1/2, shape (n,), non-negative; 0 takes a coordinate out.
    """

    def __init__(self, operator: LinearOperator, inv_sqrt: Tensor) -> None:
        if inv_sqrt.shape != (operator.n,):
            raise ValueError(
                f"the preconditioner has shape {tuple(inv_sqrt.shape)}, "
                f"the operator needs ({operator.n},)"
            )
        self.operator = operator
        self.inv_sqrt = inv_sqrt.to(device=operator.device, dtype=operator.dtype)
        self.n, self.dtype, self.device = operator.n, operator.dtype, operator.device

    @property
    def product_error(self) -> float:
        """That of A's products."""
        return getattr(self.operator, "product_error", 0.0)

    def matvec(self, v: Tensor) -> Tensor:
        """Return P^-1/2 A P^-1/2 v, shape (n,); one product with A."""
        return self.inv_sqrt * self.operator.matvec(self.inv_sqrt * v)


def inverse_square_root(diagonal: Tensor) -> Tensor:
    """Return P^-1/2 for a diagonal P > 0; infinite entries become 0."""
    if not bool((diagonal > 0).all()):
        bad = int((~(diagonal > 0)).sum())
        raise ValueError(f"a preconditioner must be positive; {bad} entries are not")
    return torch.rsqrt(diagonal)
