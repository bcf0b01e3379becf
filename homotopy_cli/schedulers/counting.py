"""How many steps an optimizer really took, however it is called."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class StepCounter:
    """Counts completed optimizer steps by hooks.

    A step that a GradScaler skips is not counted, whether it never reaches the optimizer or a
    fused one skips it by itself, on the scaler's `found_inf`. Several backward passes before one
    step count once, and so does a subclass whose `step` calls `super().step()`, although torch
    runs the hooks of both.

    A copy, or what a pickle becomes, counts the optimizer that was copied along.

    Args:
        optimizer: Holds only a weak reference back.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.n = 0
        self.on_step: Callable[[], None] | None = None  # called after each one
        self._depth = 0
        self._optimizer = optimizer
        self._watch()

    def _watch(self) -> None:
        ref = weakref.ref(self)
        self._optimizer.register_step_pre_hook(lambda *_: _enter(ref))
        self._optimizer.register_step_post_hook(lambda optimizer, *_: _leave(ref, optimizer))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._watch()  # torch's optimizers drop their hooks when they are copied

    def settle(self, depth: int = 0) -> None:
        """Forget a step that ended in an exception; `depth` 1 when called from inside a step."""
        self._depth = depth


def _enter(ref: "weakref.ref[StepCounter]") -> None:
    counter = ref()
    if counter is not None:
        counter._depth += 1


def _leave(ref: "weakref.ref[StepCounter]", optimizer: Optimizer) -> None:
    counter = ref()
    if counter is not None:
        counter._depth -= 1
        if counter._depth <= 0:
            counter._depth = 0
            if _was_skipped(optimizer):
                return
            counter.n += 1
            if counter.on_step is not None and not torch.compiler.is_compiling():
                counter.on_step()


def _was_skipped(optimizer: Optimizer) -> bool:
    """Whether a GradScaler has told a fused optimizer, for this one call, to do nothing."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and not torch.compiler.is_compiling() and bool(found)
