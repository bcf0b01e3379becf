"""CurvatureScheduler: a real torch LRScheduler around the curvature guard."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.problems.nest import Batch
from homotopy_cli.records import CurvatureEstimate
from homotopy_cli.schedulers.ceiling import PER_GROUP, SCHEDULE
from homotopy_cli.schedulers.groups import GroupRates, rescale, unwrapped, write_rates
from homotopy_cli.schedulers.history import History
from homotopy_cli.schedulers.probing import LossLike
from homotopy_cli.schedulers.ramp import MeasuredRamp
from homotopy_cli.schedulers.readings import Readings
from homotopy_cli.schedulers.settings import GuardSettings
from homotopy_cli.schedulers.thresholds import refuse_maximize
from homotopy_cli.schedulers.trust_guard import make_guard
from homotopy_cli.schedulers.usage import (
    STATE_VERSION,
    Usage,
    refuse_other_state,
    tell_of_other_line,
)


class CurvatureScheduler(Readings, LRScheduler):
    """The learning rate of group g is schedule_g · factor, one factor in (0, 1] for all groups.

    schedule_g = base_lr_g · inner(step). The loop calls, in this order:

        loss.backward()
        scheduler.update_curvature(inputs, targets)   # probes when due; lowers the rate at once
        optimizer.step()
        scheduler.step()                              # advances the schedule, releases slowly

    Ranks of torch.distributed's default group measure together and have one rate: each makes these
    calls at every step, with its own part of one model's batch.

    Args:
        optimizer: Any torch optimizer, with any groups; also inside a wrapper like accelerate's.
        model: The model in training; taken from `estimator` where left out.
        loss_fn: loss_fn(outputs, targets) -> scalar for update_curvature(inputs, targets);
            loss_fn(model, batch) -> scalar for update_curvature(batch=...); a
            problems.criteria.Loss or its name works with both. None: guessed from the first
            batch, and said in an event.
        settings: The guard's numbers.
        base_lr: Scale all groups so that the largest has this rate. None: keep the groups'.
        inner: The schedule under the ceiling: None (constant), a callable step -> factor such
            as those of baselines.py, or a torch LRScheduler of the same optimizer, which this
            scheduler then steps.
        enabled: False never probes and gives bitwise the inner schedule.
        estimator: A CurvatureEstimator whose settings and warm vectors to use.
        rise: See CurvatureGuard.
        assumed_steps: See Usage.
        last_epoch: As in torch.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module | None,
        loss_fn: LossLike,
        settings: GuardSettings,
        *,
        base_lr: float | None = None,
        inner: Any = None,
        enabled: bool = True,
        estimator: CurvatureEstimator | None = None,
        rise: MeasuredRamp | None = None,
        assumed_steps: int = 0,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        optimizer = unwrapped(optimizer)
        if enabled:
            refuse_maximize(optimizer)
        scaled = 1.0
        if base_lr is not None:
            if isinstance(inner, LRScheduler):
                raise ValueError("base_lr and an inner LRScheduler: set the optimizer's rate")
            scaled = rescale(optimizer, base_lr)
        model = model if model is not None else getattr(estimator, "model", None)
        loss_fn = loss_fn if loss_fn is not None else getattr(estimator, "loss_fn", None)
        if model is None and enabled:
            raise TypeError("a curvature scheduler needs the model: pass model=, or enabled=False")
        self.enabled = enabled
        self.history = History()
        self._settings = settings
        self._rates = GroupRates(optimizer, inner, unit=scaled if rise is not None else 1.0)
        self._guard = make_guard(
            optimizer,
            model or nn.Module(),
            loss_fn,
            settings,
            gentle=not self._has_warmup(),
            estimator=estimator,
            rise=rise,
        )
        self._was_limited = False
        self._usage = Usage(assumed_steps)
        self._stepped_at = 0  # optimizer step up to which _step_and_probe has advanced
        super().__init__(optimizer, last_epoch)

    # ------------------------------------------------------------------ the loop's two calls

    def update_curvature(
        self,
        inputs: Any = None,
        targets: Any = None,
        *,
        batch: Batch = None,
        loss: float | Tensor | None = None,
        grad_norm: float | Tensor | None = None,
        clip_coef: float = 1.0,
    ) -> CurvatureEstimate | None:
        """Probe if due, between backward() and optimizer.step(), and lower the rates at once.

        Give (inputs, targets), or batch=. Rows of it are measured in the model's present mode, with
        no trace left on it; your hooks fire in a probe too. Under a GradScaler call
        scaler.unscale_(optimizer) before: Adam's metric leaves out a gradient that is still scaled.

        Args:
            inputs: Of the training batch whose gradient is in `.grad`.
            targets: Of the same.
            batch: The whole batch, for loss_fn(model, batch).
            loss: This step's loss: an unusual one brings the next probe forward.
            grad_norm: This step's ‖g‖ before clipping: likewise.
            clip_coef: What clipping has scaled this step's gradient with, in (0, 1]:
                min(1, max_norm/‖g‖), 0 or NaN where ‖g‖ is not finite. The edge is that of the
                clipped step: it undoes clip_coef·P⁻¹Hδ of a displacement δ, and Adam's P, made of
                clipped gradients, is smaller by about as much.

        Returns:
            The estimate, or None where no probe was due or it failed.
        """
        if not self.enabled:
            return None
        if (inputs is None) == (batch is None):
            raise TypeError("update_curvature takes (inputs, targets) or batch=")
        self._usage.called = True
        self._guard.counter.settle()
        paired = batch is None and targets is not None
        given = batch if batch is not None else (inputs, targets) if paired else inputs
        self._rates.sync(self.base_lrs)
        with torch.enable_grad():
            estimate = self._guard.observe(
                given,
                self.schedule_rates(),
                paired=paired,
                loss=loss,
                grad_norm=grad_norm,
                clip_coef=clip_coef,
            )
        if estimate is not None:
            self._after_probe(given, paired=paired)
            probe = self._guard.last
            row = [probe.get(name, math.nan) for name in self.history.probes.fields[1:]]
            self.history.probes.append(self._guard.last_step, *row)
        self._apply()
        return estimate

    def step(self, epoch: int | None = None) -> None:
        """Advance the schedule by one; call after optimizer.step(), without an argument."""
        if epoch is not None and (isinstance(epoch, Tensor) or epoch != int(epoch)):
            raise TypeError(
                "scheduler.step() takes no loss: call update_curvature(inputs, targets) before "
                "optimizer.step(), or use CurvatureAdaptiveLR, whose step(loss) probes"
            )
        if self._is_initial:
            super().step(epoch)
        else:
            self._guard.counter.settle()
            self._record()
            self._rates.sync(self.base_lrs)
            self._advance()
            self._rates.step_inner()
            following = self.last_epoch + 1 if epoch is None else int(epoch)
            top = max(self._scheduled(following), default=0.0)
            self._guard.ceiling.advance_to(self._guard.n_steps, top)
            super().step(epoch)
            if self.enabled:
                self._usage.stepped(self._guard, self.last_epoch)
        self._rates.wrote()
        self._note()

    def _update_lr(self, epoch: int | None = None) -> None:
        """torch's own; SequentialLR calls it with an absolute epoch when our turn begins."""
        if epoch is not None:
            self._rates.forget_others()  # what the scheduler before us wrote is over
        super()._update_lr(epoch)
        self._rates.wrote()

    def get_lr(self) -> list[float | Tensor]:
        """The rate of every group for the present step: schedule times the common factor."""
        values = self.schedule_rates()
        factor = self._factor(max(values, default=0.0))
        values = [v if factor == 1.0 else v * factor for v in values]
        return [
            group["lr"].new_tensor(value) if isinstance(group["lr"], Tensor) else value
            for group, value in zip(self.optimizer.param_groups, values, strict=True)
        ]

    def schedule_rates(self) -> list[float]:
        """The rate of every group before the ceiling."""
        return self._scheduled(max(0, self.last_epoch))

    @property
    def schedule_lr(self) -> float:
        """The largest group's rate before the ceiling."""
        return max(self.schedule_rates(), default=0.0)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Numbers, strings and tensors only; never the model, the optimizer or a function."""
        self._rates.sync(self.base_lrs)  # what others wrote since our last write is kept
        return {
            "version": STATE_VERSION,
            "last_epoch": self.last_epoch,
            "step_count": self._step_count,
            "base_lrs": [float(base) for base in self.base_lrs],
            "was_limited": self._was_limited,
            "stepped_at": self._stepped_at,
            "rates": self._rates.state_dict(),
            "guard": self._guard.state_dict(),
            "history": self.history.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue bitwise; model, optimizer, loss and settings stay those of the constructor."""
        refuse_other_state(state_dict, len(self.optimizer.param_groups))
        tell_of_other_line(state_dict, self._guard)
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["step_count"]
        self.base_lrs = list(state_dict["base_lrs"])
        self._was_limited = state_dict["was_limited"]
        self._stepped_at = state_dict["stepped_at"]
        self._rates.load_state_dict(state_dict["rates"])
        self._guard.load_state_dict(state_dict["guard"])
        self.history.load_state_dict(state_dict["history"])
        self._remember_last()

    # ------------------------------------------------------------------ for subclasses

    def _scheduled(self, step: int) -> list[float]:
        return self._rates.scheduled(self.base_lrs, step)

    def _factor(self, top: float) -> float:
        return self._guard.ceiling.factor(top) if self.enabled else 1.0

    def _has_warmup(self) -> bool:
        """Whether the schedule rises by itself, so that the ceiling need not be the warmup."""
        return self._rates.has_warmup()

    def _advance(self) -> None:
        """What a subclass moves once per optimizer step, before the schedule advances."""

    def _step_and_probe(self, *args: Any, **kwargs: Any) -> None:
        """step() and update_curvature() in one call that comes before optimizer.step()."""
        if self._guard.n_steps > self._stepped_at:  # the step of the call before was taken
            self._stepped_at = self._guard.n_steps
            CurvatureScheduler.step(self)
        self.update_curvature(*args, **kwargs)

    def _after_probe(self, batch: Batch, *, paired: bool) -> None:
        """What a subclass learns from a successful probe."""

    def _apply(self) -> None:
        """Write the present rates into the groups, now."""
        write_rates(self.optimizer, [float(value) for value in self.get_lr()])
        self._rates.wrote()
        self._remember_last()
        self._note()

    def _remember_last(self) -> None:
        self._last_lr = [
            group["lr"].clone() if isinstance(group["lr"], Tensor) else group["lr"]
            for group in self.optimizer.param_groups
        ]

    def _record(self) -> None:
        """The step that has just been taken, into the history."""
        level = self.ceiling
        self.history.steps.append(
            self.last_epoch,
            max((float(lr) for lr in self._last_lr), default=0.0),
            self.schedule_lr,
            level if math.isfinite(level) else math.nan,
            self.lr_reason,
        )

    def _note(self) -> None:
        """An event where the ceiling begins or ends to decide the rate."""
        limited = self.enabled and self.lr_reason not in (SCHEDULE, PER_GROUP)
        if limited == self._was_limited:
            return
        self._was_limited = limited
        code = "CEILING_ON" if limited else "CEILING_OFF"
        rate, plan = max(self._rates.written, default=0.0), self.schedule_lr
        text = f"learning rate {rate:.3g}, the schedule says {plan:.3g}"
        if limited:
            text += f": {self._guard.ceiling.why(self.signal)}"
        self._guard.events.add(self._guard.n_steps, "info", code, text)
