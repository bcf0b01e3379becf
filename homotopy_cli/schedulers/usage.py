"""What a loop does wrong with a scheduler, said once or refused."""

import warnings
from collections.abc import Mapping
from typing import Any

from homotopy_cli.schedulers.guard import CurvatureGuard
from homotopy_cli.schedulers.ramp import LAW

STATE_VERSION = 3
NO_RATE = "mode auto has no learning rate until then, and the model does not train"
UNGUARDED = "the learning rate follows its schedule alone"


class Usage:
    """Watches the calls of one scheduler.

    Args:
        assumed_steps: total_steps as taken from the inner schedule; 0: given, or not known.

    Attributes:
        called: update_curvature, since construction.
    """

    def __init__(self, assumed_steps: int = 0) -> None:
        self.assumed_steps = assumed_steps
        self.called = False
        self._looked = False

    def stepped(self, guard: CurvatureGuard, last_epoch: int) -> None:
        """After scheduler.step(): two warnings, as soon as optimizer steps can tell.

        Nobody calls update_curvature, so that the rate would silently stay constant; and a length
        that was counted in scheduler steps where one of these is many optimizer steps.
        """
        if self._looked or guard.n_steps < 2:
            return
        self._looked = True
        if self.assumed_steps and last_epoch == 1:
            text = (
                f"total_steps={self.assumed_steps} was taken from the inner schedule, but "
                f"{guard.n_steps} optimizer steps were made before the first scheduler.step(): "
                "probes are paid for, and the start is drawn, as in so short a run; give "
                "total_steps=, the optimizer steps of the run"
            )
            guard.events.add(guard.n_steps, "warning", "TOTAL_STEPS", text)
            warnings.warn(text, UserWarning, stacklevel=3)
        if not self.called and guard.cadence.n_probes == 0:
            warnings.warn(
                "update_curvature(inputs, targets) was never called: "
                f"{NO_RATE if guard.ceiling.in_line else UNGUARDED}; "
                "call it between backward() and optimizer.step()",
                UserWarning,
                stacklevel=3,
            )


def refuse_other_state(state: Mapping[str, Any], n_groups: int) -> None:
    """Refuse a state that is not of a scheduler like this one.

    Raises:
        ValueError: Of another scheduler or version, or of other groups.
    """
    if "guard" not in state:
        keys = ", ".join(list(state)[:4]) or "nothing"
        raise ValueError(
            f"this is another scheduler's state: it holds {keys}, and no curvature; load what "
            "state_dict() of a curvature scheduler gave"
        )
    if state.get("version") != STATE_VERSION:
        raise ValueError(
            f"scheduler state version {state.get('version')!r}, this is {STATE_VERSION}"
        )
    saved = len(state["base_lrs"])
    if saved != n_groups:
        raise ValueError(
            f"the scheduler state has {saved} parameter groups, the optimizer {n_groups}: make the "
            "same groups before loading"
        )


def tell_of_other_line(state: Mapping[str, Any], guard: CurvatureGuard) -> None:
    """Warn where a state holds rates to a measured line that this scheduler does not follow."""
    saved = state["guard"]["ceiling"]
    if guard.ceiling.auto and "law" not in saved.get("rise", {"law": LAW}):
        warnings.warn(
            "the scheduler state is of a mode auto that rose for longer and decayed from there on; "
            "this one is level until the last fifth: its rate may be higher than the last run's",
            UserWarning,
            stacklevel=3,
        )
    if saved["in_line"] and guard.ceiling.rise is None:
        warnings.warn(
            "the scheduler state holds rates to a measured line, for which this scheduler does not "
            "know the length of the run: give total_steps= as it was, or rates may rise faster",
            UserWarning,
            stacklevel=3,
        )
