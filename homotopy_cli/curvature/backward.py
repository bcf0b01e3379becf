"""One backward pass through the graph of a gradient; vectors from gradients by parameter."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def gradients(
    outputs: Tensor | Sequence[Tensor], params: Sequence[Tensor], **options: Any
) -> list[Tensor | None]:
    """torch.autograd.grad by parameter, None where unused; sparse ones (nn.Embedding) made dense.

    Args:
        outputs: What to differentiate.
        params: With respect to what.
        options: Keywords of torch.autograd.grad.
    """
    found = torch.autograd.grad(outputs, params, allow_unused=True, **options)
    return [None if row is None else dense(row) for row in found]


def dense(tensor: Tensor) -> Tensor:
    """A sparse tensor with its zeros, and its graph; another tensor itself."""
    return tensor.to_dense() if tensor.is_sparse else tensor


def along(grads: Sequence[Tensor | None], params: Sequence[Tensor], v: Tensor) -> Tensor:
    """Return the derivative of gᵀv, shape (n_b,): zeros where g has no graph.

    Args:
        grads: g by parameter, with its graph; None where there is no gradient.
        params: The parameters of one block.
        v: Shape (n_b,), in their order.
    """
    parts = torch.split_with_sizes(v, [p.numel() for p in params])
    outputs, directions = [], []
    for grad, param, part in zip(grads, params, parts, strict=True):
        if grad is not None and grad.requires_grad:
            outputs.append(grad)
            directions.append(part.view(param.shape))
    if not outputs:
        return torch.zeros_like(v)
    rows = gradients(outputs, params, grad_outputs=directions, retain_graph=True)
    return flat([None if row is None else row.detach() for row in rows], params)


def flat(grads: Sequence[Tensor | None], params: Sequence[Tensor]) -> Tensor:
    """Return one vector (n_b,) of gradients by parameter, zeros where there is none."""
    return torch.cat(
        [
            (torch.zeros_like(param, requires_grad=False) if grad is None else grad).reshape(-1)
            for grad, param in zip(grads, params, strict=True)
        ]
    )


_ONCE_ONLY = (
    *("not implemented", "double backward", "twice", "once_differentiable", "forward AD"),
    "ZeroTensors",  # what forward mode says in the backward of mse_loss (torch 2.13)
)


def has_one_derivative_only(reason: str) -> bool:
    """Whether torch's words mean that an operation has no second derivative in this mode."""
    return any(words in reason for words in _ONCE_ONLY)
