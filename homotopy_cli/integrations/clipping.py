"""By how much accelerate clipped a gradient, which transformers' Trainer tells no callback."""

import functools
import weakref
from typing import Any

from torch.optim import Optimizer

from homotopy_cli.schedulers.groups import unwrapped

_WATCHES: "weakref.WeakSet[ClipWatch]" = weakref.WeakSet()
_OURS: list[Any] = []  # our function and the one under it, while it is in place


class ClipWatch:
    """Notes ‖g‖ of every clip_grad_norm_ of the Accelerator that has prepared `optimizer`.

    While one exists, accelerate's own method is wrapped; nothing that it does changes.

    Args:
        optimizer: Whose gradient is clipped.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = unwrapped(optimizer)
        self._clipped: tuple[Any, float] | None = None
        _wrap()
        _WATCHES.add(self)

    def close(self) -> None:
        """Look away; the last one to do so leaves accelerate as it was, unless others wrap ours."""
        _WATCHES.discard(self)
        if not _WATCHES:
            _unwrap()

    def note(self, accelerator: Any, norm: Any, max_norm: float) -> None:
        """Called after every clip: ‖g‖ before it, and the limit."""
        if any(unwrapped(o) is self._optimizer for o in accelerator._optimizers):
            self._clipped = None if norm is None else (norm, float(max_norm))

    def take(self) -> tuple[float, float | None]:
        """(what the gradient was scaled with, ‖g‖ before) since the last call; (1, None) = none."""
        clipped, self._clipped = self._clipped, None
        if clipped is None:
            return 1.0, None
        norm = float(clipped[0])
        return (min(clipped[1] / norm, 1.0) if norm else 1.0), norm  # 0 or NaN: no finite norm


def _wrap() -> None:
    from accelerate import Accelerator

    plain = function = Accelerator.clip_grad_norm_
    while function is not None:  # another tool may wrap ours
        if _OURS and function is _OURS[0]:
            return
        function = getattr(function, "__wrapped__", None)

    @functools.wraps(plain)
    def clip_grad_norm_(self: Any, parameters: Any, max_norm: float, *more: Any, **named: Any):
        norm = plain(self, parameters, max_norm, *more, **named)
        for watch in list(_WATCHES):
            watch.note(self, norm, max_norm)
        return norm

    _OURS[:] = clip_grad_norm_, plain
    Accelerator.clip_grad_norm_ = clip_grad_norm_


def _unwrap() -> None:
    from accelerate import Accelerator

    if _OURS and Accelerator.clip_grad_norm_ is _OURS[0]:  # else another tool wraps ours
        Accelerator.clip_grad_norm_ = _OURS[1]
        _OURS.clear()
