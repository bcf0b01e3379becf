"""HomotopyAdam: Adam with decoupled weight decay under a curvature ceiling."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.problems.nest import Batch
from homotopy_cli.schedulers.groups import rates, write_rates
from homotopy_cli.schedulers.guard import CurvatureGuard
from homotopy_cli.schedulers.probing import LossLike
from homotopy_cli.schedulers.settings import GuardSettings
from homotopy_cli.schedulers.thresholds import refuse_maximize
from homotopy_cli.schedulers.trust_guard import make_guard


class HomotopyAdam(Adam):
    """AdamW whose every step uses each group's rate times one curvature factor in (0, 1].

    The groups' rates are lowered for the duration of the step and put back, so that any
    scheduler, and groups with different rates, work as with torch's AdamW. Without a model it
    is AdamW.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad: As torch.optim.AdamW.
        curvature_estimator: A CurvatureEstimator(model, loss_fn) that names model and loss.
        model: The model in training, in place of the estimator's.
        loss_fn: See CurvatureScheduler.
        adam_options: Further keywords of torch.optim.Adam (foreach, fused, ...).
        settings: Keywords of GuardSettings: target, budget, total_steps, layers_freq, ...
    """

    guard: CurvatureGuard | None = None  # also after unpickling, of which torch keeps only state
    _told = False  # that batches are given to no guard

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        curvature_estimator: CurvatureEstimator | None = None,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        model: nn.Module | None = None,
        loss_fn: LossLike = None,
        adam_options: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            decoupled_weight_decay=True,
            **(adam_options or {}),
        )
        estimator = curvature_estimator
        if model is not None or estimator is not None:
            refuse_maximize(self)
        model = model if model is not None else getattr(estimator, "model", None)
        loss_fn = loss_fn if loss_fn is not None else getattr(estimator, "loss_fn", None)
        if model is None and (estimator is not None or settings):
            raise TypeError("HomotopyAdam needs the model: pass model=, or an estimator with one")
        self.guard = (
            None if model is None else make_guard(self, model, loss_fn, GuardSettings(**settings))
        )

    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Tensor] | None = None,
        inputs: Any = None,
        targets: Any = None,
        *,
        batch: Batch = None,
        loss: float | Tensor | None = None,
        grad_norm: float | Tensor | None = None,
        clip_coef: float = 1.0,
    ) -> Tensor | None:
        """Take one step; with a batch, probe first if due.

        Args:
            closure: Re-evaluates the loss and its gradient, once.
            inputs, targets: The training batch of the gradient, for loss_fn(outputs, targets).
            batch: The training batch, for loss_fn(model, batch).
            loss, grad_norm, clip_coef: Of this step; see CurvatureScheduler.update_curvature. The
                closure's loss is taken where none is given and it returns one number.

        Returns:
            What the closure returns, or None.
        """
        found = None
        if closure is not None:
            with torch.enable_grad():
                found = closure()
            loss = found if loss is None and _is_loss(found) else loss
        guard = self.guard
        if guard is None:
            if not self._told and (inputs is not None or batch is not None):
                self._told = True
                warnings.warn(
                    "HomotopyAdam has no guard, so it is plain AdamW: it was built without a "
                    "model, or is a copy, which keeps none",
                    stacklevel=2,
                )
            super().step()
            return found
        guard.counter.settle(depth=1)
        if inputs is None and batch is None and guard.n_steps == 2 and not guard.ceiling.measured:
            warnings.warn(
                "HomotopyAdam.step() was given no batch, so it is plain AdamW: "
                "call step(inputs=inputs, targets=targets) after backward()",
                stacklevel=2,
            )
        planned = rates(self)
        top = max(planned, default=0.0)
        if inputs is not None or batch is not None:
            paired = batch is None and targets is not None
            given = batch if batch is not None else (inputs, targets) if paired else inputs
            with torch.enable_grad():
                guard.observe(
                    given,
                    planned,
                    paired=paired,
                    loss=loss,
                    grad_norm=grad_norm,
                    clip_coef=clip_coef,
                )
        guard.ceiling.advance_to(guard.n_steps, top)
        factor = guard.ceiling.factor(top)
        if factor == 1.0:
            super().step()
            return found
        write_rates(self, [rate * factor for rate in planned])
        try:
            super().step()
        finally:
            write_rates(self, planned)
        return found

    @property
    def current_curvature(self) -> float:
        """κ of the last probe that measured it, 1/loss; NaN before, or without a model."""
        return float("nan") if self.guard is None else self.guard.current_curvature

    def state_dict(self) -> dict[str, Any]:
        """Adam's, and the guard's under "curvature"."""
        state = super().state_dict()
        if self.guard is not None:
            state["curvature"] = self.guard.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue bitwise; a plain Adam or AdamW state loads too."""
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "curvature"})
        if self.guard is not None and "curvature" in state_dict:
            self.guard.load_state_dict(state_dict["curvature"])


def _is_loss(found: Any) -> bool:
    return isinstance(found, float) or (isinstance(found, Tensor) and found.numel() == 1)
