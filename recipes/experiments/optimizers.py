"""Two optimizers that no table of edges covers, as one would write them for a recipe."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lion(Optimizer):
    """Steps by the sign of a momentum (Chen et al. 2023, arXiv:2302.06675).

    Args:
        params: Parameters or groups.
        lr: Learning rate: every weight moves by it at every step.
        betas: Momentum's share in the step, and its decay.
        weight_decay: Decoupled, per step and rate.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take one step; closures are not taken."""
        for group in self.param_groups:
            near, far = group["betas"]
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            moments = [_kept(self.state[p], "moment", p) for p in params]
            updates = torch._foreach_mul(moments, near)
            torch._foreach_add_(updates, grads, alpha=1.0 - near)
            torch._foreach_sign_(updates)
            torch._foreach_mul_(params, 1.0 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(params, updates, alpha=-group["lr"])
            torch._foreach_mul_(moments, far)
            torch._foreach_add_(moments, grads, alpha=1.0 - far)


class MuonAdamW(Optimizer):
    """Muon on the hidden matrices, AdamW on the rest, at one learning rate.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) steps by the momentum
    with its singular values set to about 1, here scaled to the root mean square of AdamW's steps
    (Liu et al. 2025, arXiv:2502.16982).

    Args:
        params: One list of parameters, in the model's order.
        lr: Learning rate of both.
        momentum: Of Muon, with Nesterov's step.
        betas, eps: Of AdamW.
        weight_decay: Decoupled, of both.
        embeddings: So many matrices at the start are left to AdamW.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-2,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        embeddings: int = 2,
    ) -> None:
        params = list(params)
        matrices = [p for p in params if p.ndim == 2][embeddings:]
        hidden = {id(p) for p in matrices}
        rest = [p for p in params if id(p) not in hidden]
        shared = {"lr": lr, "weight_decay": weight_decay}
        super().__init__(
            [
                {"params": matrices, "momentum": momentum, "betas": None, "eps": None},
                {"params": rest, "momentum": None, "betas": betas, "eps": eps},
            ],
            shared,
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take one step; closures are not taken."""
        for group in self.param_groups:
            rate, decay = group["lr"], group["weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                update = self._muon(group, state, p) if group["momentum"] else None
                update = self._adam(group, state, p) if update is None else update
                p.mul_(1.0 - rate * decay).add_(update, alpha=-rate)

    @staticmethod
    def _muon(group: dict, state: dict, p: Tensor) -> Tensor:
        moment = _kept(state, "moment", p)
        moment.lerp_(p.grad, 1.0 - group["momentum"])
        update = orthogonal(p.grad.lerp(moment, group["momentum"]))
        return update * (0.2 * max(p.shape) ** 0.5)

    @staticmethod
    def _adam(group: dict, state: dict, p: Tensor) -> Tensor:
        first, second = _kept(state, "first", p), _kept(state, "second", p)
        state["step"] = t = state.get("step", 0) + 1
        a, b = group["betas"]
        first.lerp_(p.grad, 1.0 - a)
        second.mul_(b).addcmul_(p.grad, p.grad, value=1.0 - b)
        scale = (second / (1.0 - b**t)).sqrt_().add_(group["eps"])
        return first / (1.0 - a**t) / scale


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix (m, n) with its singular values near 1: five Newton-Schulz steps."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def _kept(state: dict, name: str, p: Tensor) -> Tensor:
    if name not in state:
        state[name] = torch.zeros_like(p)
    return state[name]
