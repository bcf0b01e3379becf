"""A curvature ceiling on an optimizer whose learning rates somebody else schedules."""

import math
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from homotopy_cli.problems.nest import Batch
from homotopy_cli.records import EventRecord
from homotopy_cli.schedulers.ceiling import SCHEDULE
from homotopy_cli.schedulers.groups import rates, unwrapped, write_rates
from homotopy_cli.schedulers.history import History
from homotopy_cli.schedulers.probing import LossLike
from homotopy_cli.schedulers.settings import GuardSettings
from homotopy_cli.schedulers.thresholds import refuse_maximize
from homotopy_cli.schedulers.trust_guard import make_guard

LOGGED = (
    "kappa",
    "lambda_max",
    "preconditioned_sharpness",
    "trust_ratio",
    "edge_ratio",
    "ceiling",
)  # columns of a probe that a framework's own log gets


class BorrowedCeiling:
    """The lower of rate and limits (see HomotopyLR, mode guard) for one optimizer step's length.

    `before_step` probes when due and writes the lowered rates; a hook on the optimizer puts the
    scheduled ones back right after its step, so that whoever schedules them never sees ours.

    Args:
        optimizer: Any torch optimizer.
        model: The model in training.
        loss_fn: See schedulers.probing.CurvatureProbe.
        settings: Keywords of GuardSettings: target, signal, budget, layers_freq, ...

    Attributes:
        last: The last probe as columns of the log (kappa, edge_ratio, ceiling, ...).
        factor: What the last step's rates were multiplied with, in (0, 1].
        history: Rates of every step and results of every probe, bounded; `curvature_figure()`
            and `lr_figure()` draw them.
    """

    def __init__(
        self, optimizer: Optimizer, model: nn.Module, loss_fn: LossLike, **settings: Any
    ) -> None:
        optimizer = unwrapped(optimizer)
        refuse_maximize(optimizer)
        self.optimizer = optimizer
        self.history = History()
        self.guard = make_guard(optimizer, model, loss_fn, GuardSettings(**settings))
        self.factor = 1.0
        self._scheduled: list[float] | None = None
        ref = weakref.ref(self)
        self._hook = optimizer.register_step_post_hook(lambda *_: _give_back(ref))

    @property
    def last(self) -> dict[str, Any]:
        return self.guard.last

    @property
    def events(self) -> list[EventRecord]:
        """What happened and was not drained yet: why a rate fell, which probe failed."""
        return self.guard.events.pending

    def drain_events(self) -> list[EventRecord]:
        """Return the pending events and forget them."""
        return self.guard.events.drain()

    def before_step(
        self,
        batch: Batch,
        *,
        loss: float | Tensor | None = None,
        grad_norm: float | Tensor | None = None,
        clip_coef: float = 1.0,
    ) -> None:
        """Probe if due and lower the rates; between backward() and optimizer.step().

        Args:
            batch: The batch of the gradient in `.grad`, as `loss_fn` takes it.
            loss: Of this step, for the free alarm.
            grad_norm: Of this step, likewise.
            clip_coef: What clipping scales this step's gradient with, in (0, 1];
                0 or NaN where ‖g‖ is not finite.
        """
        self.guard.counter.settle()
        scheduled = rates(self.optimizer) if self._scheduled is None else self._scheduled
        with torch.enable_grad():
            found = self.guard.observe(
                batch,
                scheduled,
                paired=False,
                loss=loss,
                grad_norm=grad_norm,
                clip_coef=clip_coef,
            )
        top = max(scheduled, default=0.0)
        self.guard.ceiling.advance_to(self.guard.n_steps, top)
        factor = self.factor = self.guard.ceiling.factor(top)
        if found is not None:
            row = [self.last.get(name, math.nan) for name in self.history.probes.fields[1:]]
            self.history.probes.append(self.guard.last_step, *row)
        reason, level = self.guard.ceiling.reason, self.guard.ceiling.level
        level = level if math.isfinite(level) else math.nan
        self.history.steps.append(self.guard.n_steps, top * factor, top, level, reason)
        if reason != SCHEDULE:
            self._scheduled = scheduled
            write_rates(self.optimizer, [rate * factor for rate in scheduled])

    def give_back(self) -> None:
        """Write the scheduled rates; the optimizer's hook calls this after each step."""
        if self._scheduled is not None:
            write_rates(self.optimizer, self._scheduled)
            self._scheduled = None

    def close(self) -> None:
        """Give the rates back and take the hook off."""
        self.give_back()
        self._hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """Numbers, strings and tensors only."""
        return {"guard": self.guard.state_dict(), "history": self.history.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.guard.load_state_dict(state["guard"])
        self.history.load_state_dict(state["history"])


def _give_back(ref: "weakref.ref[BorrowedCeiling]") -> None:
    ceiling = ref()
    if ceiling is not None:
        ceiling.give_back()
