"""The schedules everyone compares with: pure functions step -> factor of the base rate.

Each factory returns a frozen, callable object of plain numbers, so that it can be pickled,
stored in a scheduler's state and given to torch's LambdaLR as it is. `step` counts from 0;
the factor at step t is the one *used* for optimizer step t. Past the end of the schedule the
last value holds. Warmup rises linearly and never starts at 0: step 0 of `warmup_steps` uses
1/warmup_steps, because a step with rate 0 is a step thrown away.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class Schedule:
    """One of SCHEDULES with its numbers; calling it gives the factor in [0, 1]."""

    name: str
    total_steps: int  # 0 = unknown; only `constant` and `step` work without
    warmup_steps: int = 0  # linear rise over this many steps
    final: float = 0.0  # factor at the end, dimensionless
    decay_steps: int = 0  # wsd: length of the final decay
    step_size: int = 0  # step: distance between two drops
    gamma: float = 0.1  # step: factor of one drop
    hold_steps: int = 0  # exponential: steps at the full rate before the decay

    def __call__(self, step: int) -> float:
        """The factor for optimizer step `step` (0-based)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return _SHAPES[self.name](self, step)


def _constant(schedule: Schedule, step: int) -> float:
    return 1.0


def _progress(schedule: Schedule, step: int) -> float:
    """Share of the decay that is behind us; 1 at the last step, total_steps - 1."""
    length = max(1, schedule.total_steps - 1 - schedule.warmup_steps)
    return min(1.0, (step - schedule.warmup_steps) / length)


def _cosine(schedule: Schedule, step: int) -> float:
    low = schedule.final
    return low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * _progress(schedule, step)))


def _linear(schedule: Schedule, step: int) -> float:
    return 1.0 + (schedule.final - 1.0) * _progress(schedule, step)


def _step(schedule: Schedule, step: int) -> float:
    return schedule.gamma ** ((step - schedule.warmup_steps) // schedule.step_size)


def _wsd(schedule: Schedule, step: int) -> float:
    start = schedule.total_steps - schedule.decay_steps
    if step < start:
        return 1.0
    share = min(1.0, (step - start + 1) / schedule.decay_steps)
    return 1.0 + (schedule.final - 1.0) * share


def _exponential(schedule: Schedule, step: int) -> float:
    start = schedule.warmup_steps + schedule.hold_steps
    length = max(1, schedule.total_steps - 1 - start)
    return schedule.final ** min(1.0, max(0, step - start) / length)


_SHAPES: dict[str, Callable[[Schedule, int], float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "linear": _linear,
    "step": _step,
    "wsd": _wsd,
    "exponential": _exponential,
}
SCHEDULES = tuple(_SHAPES)


def constant(*, warmup_steps: int = 0, total_steps: int = 0) -> Schedule:
    """1 for ever, after an optional linear warmup."""
    return Schedule("constant", total_steps, warmup_steps)


def cosine(total_steps: int, *, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """Half a cosine from 1 to `final` (Loshchilov & Hutter 2017, one cycle, no restart)."""
    _check_horizon("cosine", total_steps, warmup_steps)
    return Schedule("cosine", total_steps, warmup_steps, final)


def linear(total_steps: int, *, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """A straight line from 1 to `final`."""
    _check_horizon("linear", total_steps, warmup_steps)
    return Schedule("linear", total_steps, warmup_steps, final)


def step(
    total_steps: int = 0, *, step_size: int = 0, gamma: float = 0.1, warmup_steps: int = 0
) -> Schedule:
    """A drop by `gamma` every `step_size` steps; a third of the run where it is not given."""
    size = step_size or max(1, total_steps // 3)
    if not step_size and not total_steps:
        raise ValueError("step: give step_size, or total_steps to take a third of it")
    return Schedule("step", total_steps, warmup_steps, step_size=size, gamma=gamma)


def wsd(
    total_steps: int, *, warmup_steps: int = 0, decay_steps: int = 0, final: float = 0.0
) -> Schedule:
    """Warmup, stable, decay: constant, then a straight line to `final` over the last steps.

    `decay_steps` defaults to a fifth of the run (Hägele et al. 2024, arXiv:2405.18392: 10 to
    20 % suffices).
    """
    _check_horizon("wsd", total_steps, warmup_steps)
    decay = decay_steps or max(1, total_steps // 5)
    if decay + warmup_steps > total_steps:
        raise ValueError(
            f"wsd: warmup_steps {warmup_steps} and decay_steps {decay} do not fit into "
            f"total_steps {total_steps}"
        )
    return Schedule("wsd", total_steps, warmup_steps, final, decay_steps=decay)


def exponential(
    total_steps: int, *, warmup_steps: int = 0, hold_steps: int = 0, final: float = 1e-3
) -> Schedule:
    """Warmup, hold, then the same factor every step until `final` at the last one.

    It spends as many steps on every octave of rates. Where gradient noise sets the end and the
    right rate for it is unknown, no octave of it is missed: on noisy quadratics it ended 10 times
    lower than a cosine from the same peak.

    Raises:
        ValueError: `final` is not in (0, 1], or warmup and hold leave no step for the decay.
    """
    _check_horizon("exponential", total_steps, warmup_steps + hold_steps, "warmup and hold of")
    if not 0.0 < final <= 1.0:
        raise ValueError(f"exponential: final is {final}: it must be in (0, 1]")
    return Schedule("exponential", total_steps, warmup_steps, final, hold_steps=hold_steps)


_FACTORIES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "step": step,
    "wsd": wsd,
    "exponential": exponential,
}


def build_schedule(
    name: str,
    total_steps: int = 0,
    *,
    optimizer: Optimizer | None = None,
    warmup: float | int = 0,
    hold: float | int = 0,
    **settings: Any,
) -> Schedule | LambdaLR:
    """One of SCHEDULES by name; wrapped in LambdaLR where an optimizer is given.

    Args:
        name: constant, cosine, linear, step, wsd or exponential.
        total_steps: Optimizer steps of the whole run.
        optimizer: Whose groups' rates the LambdaLR shall scale, each by the same factor.
        warmup: Steps of linear warmup as an int, or a share of the run as a float below 1.
        hold: Steps that `exponential` holds the full rate, given alike.
        settings: Further keywords of that factory, `warmup_steps` included.

    Raises:
        ValueError: Unknown name, or numbers that do not fit together.
        TypeError: A keyword that this schedule does not have.
    """
    if name not in _FACTORIES:
        raise ValueError(f"unknown schedule {name!r}: one of {', '.join(SCHEDULES)}")
    for key, value in (("warmup_steps", warmup), ("hold_steps", hold)):
        if value:
            share = isinstance(value, float) and value < 1.0
            settings[key] = round(value * total_steps) if share else int(value)
    schedule = _FACTORIES[name](total_steps=total_steps, **settings)
    return schedule if optimizer is None else LambdaLR(optimizer, schedule)


def _check_horizon(name: str, total_steps: int, before: int, what: str = "warmup_steps") -> None:
    if total_steps < 1:
        raise ValueError(f"{name}: total_steps is {total_steps}, but its decay needs an end")
    if before >= total_steps:
        raise ValueError(f"{name}: {what} {before} leaves nothing of total_steps {total_steps}")
