"""What measures curvature between backward() and optimizer.step(), under any schedule.

`SchedulerProbe` asks a curvature scheduler, which may lower the learning rate of this very
step; `PassiveProbe` measures the same quantities under a fixed schedule and changes nothing;
`NoProbe` does nothing. A probe that fails is an event, never an end of training.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from homotopy_cli.errors import MEASUREMENT_ERRORS
from homotopy_cli.records import LR_REASONS, EventRecord, ProbeRecord
from homotopy_cli.schedulers.base import CurvatureScheduler
from homotopy_cli.schedulers.guard import CurvatureGuard

LayerValues = Callable[[], Mapping[str, Any]]  # layer_grad_norm, layer_lr of this step


@dataclass(frozen=True)
class Gradient:
    """What a step knows between its backward pass and its update."""

    batch: Any  # whose gradient is in `.grad`
    step: int
    loss: float
    norm: float  # ‖g‖ before clipping, loss/parameter
    clip_coef: float  # what clipping scaled it with, in (0, 1]
    layers: LayerValues


class Probe(Protocol):
    """One object per run; asked at every step, measures when due."""

    def after_backward(self, made: Gradient) -> ProbeRecord | None: ...

    def reading(self, lr: float) -> dict[str, float]:
        """schedule_lr, ceiling_lr and lr_reason of the step that is about to use `lr`.

        All three rates are the largest group's.
        """
        ...

    def drain_events(self) -> list[EventRecord]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class NoProbe:
    """For `curvature: {freq: 0}` under a fixed schedule."""

    def after_backward(self, made: Gradient) -> None:
        """Never measures."""

    def reading(self, lr: float) -> dict[str, float]:
        """The schedule decides alone."""
        return {"schedule_lr": lr, "lr_reason": 0}

    def drain_events(self) -> list[EventRecord]:
        """Nothing ever happens."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Nothing to remember."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


class SchedulerProbe:
    """The probe of a curvature scheduler: it acts on what it measures, before the step."""

    def __init__(self, scheduler: CurvatureScheduler) -> None:
        self._scheduler = scheduler

    def after_backward(self, made: Gradient) -> ProbeRecord | None:
        """Let the scheduler probe if due; it lowers the rates of this very step."""
        found = self._scheduler.update_curvature(
            batch=made.batch, loss=made.loss, grad_norm=made.norm, clip_coef=made.clip_coef
        )
        return (
            None if found is None else record(made.step, self._scheduler.last_probe, made.layers())
        )

    def reading(self, lr: float) -> dict[str, float]:
        """What the schedule asked for, what curvature allows, and which of them holds."""
        scheduler = self._scheduler
        found = {"schedule_lr": scheduler.schedule_lr, "lr_reason": scheduler.lr_reason}
        if math.isfinite(scheduler.ceiling):
            found["ceiling_lr"] = scheduler.ceiling
        return found

    def drain_events(self) -> list[EventRecord]:
        """The scheduler's events."""
        return self._scheduler.drain_events()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the scheduler's own state holds it."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


class PassiveProbe:
    """Measures under a fixed schedule what a curvature scheduler would, and applies nothing.

    `guard` is the schedulers' engine; its factor is never read. `ceiling` in the log is then
    what curvature would have allowed, `edge_ratio` what the fixed rate really did.
    """

    def __init__(self, guard: CurvatureGuard) -> None:
        self._guard = guard
        guard.ceiling.acts = False
        self._off = False  # the model cannot be measured at all: said once
        self._events: list[EventRecord] = []

    def after_backward(self, made: Gradient) -> ProbeRecord | None:
        """Measure if due: before the optimizer's step, with the gradient still in place."""
        if self._off:
            return None
        guard = self._guard
        rates = [float(group["lr"]) for group in guard.optimizer.param_groups]
        try:
            found = guard.observe(
                made.batch,
                rates,
                paired=False,
                loss=made.loss,
                grad_norm=made.norm,
                clip_coef=made.clip_coef,
            )
        except MEASUREMENT_ERRORS as error:
            self._off = True
            words = f"curvature cannot be measured here, training goes on without: {error}"
            self._events.append(EventRecord(made.step, "warning", "PROBE_OFF", words))
            return None
        if found is None:
            return None
        return record(made.step, guard.last, made.layers())

    def reading(self, lr: float) -> dict[str, float]:
        """The schedule decides alone."""
        return {"schedule_lr": lr, "lr_reason": LR_REASONS.index("schedule")}

    def drain_events(self) -> list[EventRecord]:
        """What happened since the last call; no ceiling is spoken of, since none acts."""
        events, self._events = self._events, []
        for event in self._guard.events.drain():
            if event.code == "TARGET":
                continue
            if event.code == "PROBE_FAILED":
                event = replace(event, message=event.message.rpartition(": ")[0])
            events.append(event)
        return events

    def state_dict(self) -> dict[str, Any]:
        """Warm vectors and counters: a resumed run probes at the same steps."""
        return {"guard": self._guard.state_dict(), "off": self._off}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._guard.load_state_dict(state["guard"])
        self._off = state["off"]


def record(step: int, values: Mapping[str, Any], layers: Mapping[str, Any]) -> ProbeRecord:
    """One row per probe: floats as columns, arrays as layer columns; the loop's own win."""
    arrays = {k: v for k, v in values.items() if k.startswith("layer_")} | dict(layers)
    floats = {k: float(v) for k, v in values.items() if not k.startswith("layer_")}
    return ProbeRecord(step, floats, {k: np.asarray(v, "f4") for k, v in arrays.items()})
