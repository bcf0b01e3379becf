"""The full Hessian, float64, by ways that share no code with hvp.py.

`difference_hessian` needs first derivatives only, so a wrong double backward cannot hide.
`functorch_hessian` is torch.func.hessian: exact, but torch 2.13's batched forward mode gets
layer_norm wrong by 20 %, so models with one are left to the differences.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn.attention import SDPBackend, sdpa_kernel


class _LossOf(nn.Module):
    def __init__(self, model, loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch):
        return self.loss(self.model, batch)


def objective(model, loss, batches, counts) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return f(θ) = Σ counts_b loss_b / Σ counts_b and the present θ (n,)."""
    wrapped = _LossOf(model, loss)
    params = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in params.values()]

    def f(theta: Tensor) -> Tensor:
        parts = theta.split(sizes)
        swapped = {n: x.view(p.shape) for (n, p), x in zip(params.items(), parts, strict=True)}
        with sdpa_kernel(SDPBackend.MATH):
            values = [functional_call(wrapped, swapped, (batch,)) for batch in batches]
        return sum(c * v for c, v in zip(counts, values, strict=True)) / sum(counts)

    return f, torch.cat([p.detach().reshape(-1) for p in params.values()])


def gradient(f, theta) -> Tensor:
    """∇f, shape (n,), by one reverse pass."""
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(f(theta), theta)[0]


def difference_hessian(f, theta, h=1e-3) -> Tensor:
    """H, shape (n, n), by fourth-order differences of the gradient; error about 1e-11."""
    rows = []
    for i in range(len(theta)):
        e = torch.zeros_like(theta)
        e[i] = h
        near = gradient(f, theta + e) - gradient(f, theta - e)
        far = gradient(f, theta + 2 * e) - gradient(f, theta - 2 * e)
        rows.append((8 * near - far) / (12 * h))
    rows = torch.stack(rows)
    return 0.5 * (rows + rows.T)


def functorch_hessian(f, theta) -> Tensor:
    """H, shape (n, n), by torch.func.hessian."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, about torch.jit.script
        return hessian(f)(theta).detach()


def positions(model, owner) -> dict[str, list[int]]:
    """Indices in the flat vector of each block; owner(parameter name) -> block name."""
    blocks, start = {}, 0
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        blocks.setdefault(owner(name), []).extend(range(start, start + p.numel()))
        start += p.numel()
    return blocks


def module_of(name: str) -> str:
    """Path of the module that owns a parameter, "(root)" for the top one."""
    return name.rpartition(".")[0] or "(root)"
