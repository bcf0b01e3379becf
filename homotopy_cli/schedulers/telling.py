"""What the guard tells of a run, in sentences: events.py keeps them."""

import warnings

from homotopy_cli.schedulers.cadence import UNKNOWN_HORIZON, Cadence
from homotopy_cli.schedulers.ceiling import Ceiling
from homotopy_cli.schedulers.events import EventLog
from homotopy_cli.schedulers.probing import CurvatureProbe
from homotopy_cli.schedulers.ramp import LINE_SIGNAL
from homotopy_cli.schedulers.settings import GuardSettings

LONG = 0.1  # share of the run without a probe that is told; our choice
IN_A_ROW = 10  # failed probes that are worth a second warning; our choice
SHORT_RUN = 200  # steps; the start is most of a shorter one, and nothing could be done about it


class GuardEvents(EventLog):
    """The events of one CurvatureGuard."""

    def overflow(self, holds: bool, step: int) -> None:
        """The gradient or its norm is not finite; a GradScaler skips such a step."""
        text = "inf or NaN: nothing to probe"
        self.add_if_new(holds, step, "info", "GRADIENT_NONFINITE", text)

    def alarm(self, fired: str, step: int) -> None:
        """A free alarm: what is out of its range, or ""."""
        self.add_if_new(bool(fired), step, "info", "ALARM", f"{fired} out of range")

    def whole(self, step: int, probe: CurvatureProbe, before: bool | None) -> None:
        """From this probe on all rows are measured, since slices do not represent the batch.

        Args:
            step: Of the probe.
            probe: What knows why.
            before: `probe.whole` before it.
        """
        if probe.whole and not before:
            self.add(step, "warning", "WHOLE_BATCH", f"{probe.why_whole}: all rows are measured")

    def guessed(self, step: int, reason: str) -> None:
        """No loss was given: which one is measured, and why."""
        text = f"no loss_fn was given: {reason}; give the one that trains if it is another"
        self.add(step, "info", "LOSS_GUESSED", text)

    def scaled(self, step: int, text: str) -> None:
        """The gradient in `.grad` is still multiplied by a loss scale."""
        self.add(step, "warning", "GRADIENT_SCALED", text)
        warnings.warn(text, UserWarning, stacklevel=3)

    def failed(self, step: int, n_probes: int, why: str, ceiling: Ceiling, *, row: int) -> None:
        """A probe failed: what holds now; with a warning, once a row, where nobody takes events.

        Args:
            step, n_probes, why, ceiling: Of the probe.
            row: How many in a row have failed.
        """
        kept = "the last ceiling stays" if ceiling.measured else "there is no ceiling yet"
        kept = "rates are held at the floor" if ceiling.held else kept
        self.add(step, "warning", "PROBE_FAILED", f"probe {n_probes} failed ({why}): {kept}")
        if self.heard or not (row == IN_A_ROW or (row == 1 and ceiling.measured)):
            return
        what = "a curvature probe" if row == 1 else f"{row} curvature probes in a row"
        text = f"{what} failed, at step {step} ({why}): {kept}; `.events` tells more"
        warnings.warn(text, UserWarning, stacklevel=5)

    def unwatched(self, step: int, cadence: Cadence, cost: float, ceiling: Ceiling) -> None:
        """The schedule still rises, and no probe can be paid for a tenth of the run.

        On a GPU a probe of a small model costs as much as 17 gradients, since launching is what
        takes the time: the start's seven were all that 2,000 steps paid for.
        """
        horizon = cadence.total_steps or UNKNOWN_HORIZON
        free = ceiling.lowers and not ceiling.in_line and ceiling.reach.rises
        if not free or not ceiling.is_stale(step) or horizon < SHORT_RUN:
            return
        next_one = cadence.affords_from(step, cost)
        if next_one is not None and next_one - step < LONG * horizon:
            return
        if next_one is not None:
            until = f"before step {next_one:,}"
        else:
            until = "for the rest of the run" if cadence.total_steps else f"for {horizon:,} steps"
        line = ", or give it no warmup: a rate too high then rises in a measured line"
        self.add_if_new(
            True,
            step,
            "warning",
            "UNWATCHED",
            "the schedule rises unwatched: probes have spent what a budget of "
            f"{ceiling.settings.budget:g} allows, and none can be paid {until}. Raise the budget"
            f"{line if ceiling.rise is not None else ''}",
        )

    def endless(self, rise: int) -> None:
        """Mode auto without the run's length."""
        text = f"total_steps is not given: the rate rises for {rise:,} steps and never decays"
        self.add(0, "warning", "NO_DECAY", text)

    def length(self, total_steps: int, where: str) -> None:
        """The run's length is taken from the inner schedule."""
        text = f"total_steps is not given: {total_steps:,} as {where} says"
        self.add(0, "info", "TOTAL_STEPS", text)

    def unlined(self, settings: GuardSettings, signal: str) -> None:
        """Without the run's length there is no measured line under a schedule that is too high."""
        if settings.total_steps or not settings.warmup or signal != LINE_SIGNAL:
            return
        text = (
            "total_steps is not given: a rate far too high is held at the edge of stability alone, "
            "not to a measured line below it"
        )
        self.add(0, "info", "NO_LINE", text)

    def watched(self) -> None:
        """A probe was taken: the next such gap is told again."""
        self.lasting.pop("UNWATCHED", None)
