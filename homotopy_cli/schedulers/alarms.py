"""Free alarms: numbers the loop has anyway, watched for leaving their own recent range."""

import math
from collections import deque
from statistics import median
from typing import Any

from torch import Tensor


class RangeAlarm:
    """Fires when a value lies above the recent median by more than `width` robust deviations.

    Only the upper side: a loss or a gradient norm that falls is no danger. 1.4826·MAD stands
    for the standard deviation, floored at 1 % of the median. A non-finite value fires and is
    not remembered.

    Args:
        width: Deviations; 4 is our choice.
        window: Values remembered.
        least: Values needed before it can fire.
    """

    def __init__(self, width: float = 4.0, window: int = 64, least: int = 16) -> None:
        self.width = width
        self.least = least
        self.values: deque[float] = deque(maxlen=window)

    def __call__(self, value: float) -> bool:
        """Add one value; True when it is out of range."""
        if not math.isfinite(value):
            return True
        fired = False
        if len(self.values) >= self.least:
            middle = median(self.values)
            spread = 1.4826 * median(abs(v - middle) for v in self.values)
            fired = value - middle > self.width * max(spread, 0.01 * abs(middle))
        self.values.append(value)
        return fired

    def state_dict(self) -> dict[str, Any]:
        """The remembered values."""
        return {"values": list(self.values)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the remembered values."""
        self.values.clear()
        self.values.extend(state["values"])


def as_number(value: float | Tensor | None) -> float | None:
    """A tensor's value without its graph; reading it waits for the device, so read it once."""
    return None if value is None else float(value.item() if isinstance(value, Tensor) else value)


class Alarms:
    """Both free alarms, of the loss and of the gradient norm."""

    def __init__(self) -> None:
        self.of = {"loss": RangeAlarm(), "grad_norm": RangeAlarm()}

    def __call__(self, loss: float | None, grad_norm: float | None) -> str:
        """Which of them fire, in words; "" for none. None is not looked at."""
        seen = {"loss": loss, "grad_norm": grad_norm}
        return " and ".join(k for k, x in seen.items() if x is not None and self.of[k](x))

    def state_dict(self) -> dict[str, Any]:
        """The remembered values."""
        return {name: alarm.state_dict() for name, alarm in self.of.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the remembered values."""
        for name, alarm in self.of.items():
            alarm.load_state_dict(state[name])
