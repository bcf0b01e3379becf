"""The engine for optimizers without a known edge: it watches steps instead of measuring λ."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from homotopy_cli.errors import MEASUREMENT_ERRORS, NonFiniteError
from homotopy_cli.problems.nest import Batch, n_rows
from homotopy_cli.records import CurvatureEstimate
from homotopy_cli.schedulers import thresholds, trust
from homotopy_cli.schedulers.alarms import as_number
from homotopy_cli.schedulers.effort import Effort
from homotopy_cli.schedulers.guard import CurvatureGuard
from homotopy_cli.schedulers.probing import LossLike, Measurement
from homotopy_cli.schedulers.ranks import mean_over_ranks, world_size
from homotopy_cli.schedulers.settings import GuardSettings, norm_is_finite

UNHELD = (torch.optim.LBFGS, torch.optim.Rprop)  # a line search, and sizes of its own
KAPPA_RARER = 2  # than under other signals; our choice
START = 1e-2  # first rate over the scheduled one, where no schedule warms up; our choice


class TrustGuard(CurvatureGuard):
    """A CurvatureGuard whose signal is the trust ratio of the steps that were taken: see trust.

    A probe has two halves. `observe` before step t remembers where it starts; a hook on the
    optimizer reads how it went as soon as it has been taken, while the mode and the batch are those
    of the step and on every rank; and the next `observe` turns that into a ceiling. The
    first step is taken before anything is measured: where no schedule warms up, its rate is
    START of the scheduled one, and the ceiling rises from there. κ and λ_max(H) steer nothing,
    unless a curvature_target is given, and cost more than a reading: KAPPA_RARER · `kappa_freq`
    readings lie between two of them.

    Args:
        optimizer, model, loss_fn, settings: See CurvatureGuard.
        gentle: No schedule warms up.
        more: Keywords of CurvatureGuard.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        loss_fn: LossLike,
        settings: GuardSettings,
        *,
        gentle: bool = True,
        **more: Any,
    ) -> None:
        super().__init__(optimizer, model, loss_fn, settings, gentle=gentle, **more)
        self.watch = trust.TrustWatch(self.probe, optimizer)
        self.counter.on_step = self._read
        if isinstance(optimizer, UNHELD):
            self.ceiling.acts = False
            text = f"the rate is no step length of {type(optimizer).__name__}: it is left alone"
            self.events.add(0, "warning", "NOT_HELD", text)

    def observe(
        self,
        batch: Batch,
        rates: Sequence[float],
        *,
        paired: bool,
        loss: float | Tensor | None = None,
        grad_norm: float | Tensor | None = None,
        clip_coef: float = 1.0,
    ) -> CurvatureEstimate | None:
        """Turn the last step's reading into a ceiling, and watch the coming one if due.

        Args:
            batch, rates, paired, loss, grad_norm, clip_coef: See CurvatureGuard. Clipping is part
                of the step that is watched, and needs no correction.

        Raises:
            ProblemError, RuntimeError: The very first probe cannot be taken at all.
        """
        norm_is_finite(float(clip_coef))  # refuses what is no share; the rest is the step's own
        step, top = self.n_steps, max(rates, default=0.0)
        self.ceiling.advance_to(step, top)
        loss = as_number(loss) if world_size() == 1 else None  # each rank has its own
        alarm = self._alarmed(loss, grad_norm)
        waits = self.watch.armed is not None or self.watch.reading is not None
        self._read()
        # Already armed at this step where gradients add up, or a step was skipped.
        armed = self.watch.armed is not None
        due = not armed and self._due(batch, waits=waits)
        found = self._take_reading(batch, rates, paired=paired, alarm=alarm)
        if due or (self.ceiling.edge.doubted and not armed):
            self._arm(batch, top, paired=paired)
        if found is not None:
            self._observe_layers(batch, paired=paired)
        return found

    def _read(self) -> None:
        try:
            self.watch.settle(self.n_steps)
        except MEASUREMENT_ERRORS as error:
            self._failed(self.n_steps, 0.0, str(error))

    def _due(self, batch: Batch, *, waits: bool) -> bool:
        """Whether to watch the coming step; outside the burst one reading at a time."""
        step = self.n_steps
        if waits and not self.cadence.in_burst(step):
            return False
        blind = self.ceiling.holds_blindly(step, self.cadence.last_probe)
        if not blind and not self.cadence.wants(step):
            return False
        rows = n_rows(batch)
        share = self.probe.slice_size(rows, self.settings.probe_fraction) / max(1, rows)
        costs = mean_over_ranks([trust.cost(share, self.probe.per_pass)])
        if self.cadence.choose(step, costs) is not None or blind:
            return True
        self.events.unwatched(step, self.cadence, costs[0], self.ceiling)
        return False

    def _arm(self, batch: Batch, top: float, *, paired: bool) -> None:
        step, ceiling = self.n_steps, self.ceiling
        if not top > 0.0:
            return  # a step of length 0 shows nothing
        starts = not ceiling.measured and math.isinf(ceiling.edge.limit)
        if starts and ceiling.gentle and ceiling.acts:
            ceiling.edge.limit = START * top
        sliced = self.probe.whole
        try:
            self.watch.arm(
                batch,
                self.settings.probe_fraction,
                paired=paired,
                step=step,
                rate=top * ceiling.factor(top),
            )
        except MEASUREMENT_ERRORS as error:
            if not ceiling.measured and not isinstance(error, NonFiniteError):
                raise
            self._failed(step, 0.0, str(error))
        else:
            self.cadence.spent += self.watch.armed.cost  # read or not
            self.events.whole(step, self.probe, sliced)

    def _take_reading(
        self, batch: Batch, rates: Sequence[float], *, paired: bool, alarm: bool
    ) -> CurvatureEstimate | None:
        step = self.n_steps
        found = self.watch.take(fresh=step <= self.cadence.early_steps)
        if found is None:
            return None
        try:
            found = self._with_curvature(found, batch, paired=paired)
        except MEASUREMENT_ERRORS as error:
            self.events.add(step, "warning", "CURVATURE_FAILED", f"no κ: {error}")
        self.seconds += found.seconds
        names = ("directional_sharpness", "kappa", "signal_fraction")
        told = [found.values.get(name, math.nan) for name in names]
        sharpness, kappa, fraction = mean_over_ranks(told)
        self.ceiling.take_fraction(fraction)
        self._take(found, sharpness, kappa, rates, alarm=alarm, clip_coef=1.0)
        return found.estimate

    def _with_curvature(self, found: Measurement, batch: Batch, *, paired: bool) -> Measurement:
        """With λ_max(H) and κ of this step's batch, where it is their turn and can be paid."""
        s, cadence = self.settings, self.cadence
        free = self.ceiling.kappa_target is None and self.ceiling.acts
        every = KAPPA_RARER * s.kappa_freq if free else 1
        if cadence.n_probes % every:
            return found
        first = cadence.n_probes == 0
        steps = s.burst_lanczos_steps if first else s.lanczos_steps
        effort = Effort(s.probe_fraction, steps)
        (cost,) = mean_over_ranks([self.probe.predicted(effort, batch)])
        if not first and cost + found.cost > cadence.left(self.n_steps):
            return found
        more = self.probe.measure(
            batch, effort, paired=paired, metric=lambda _: None, step=self.n_steps
        )
        added = {
            name: found.values[name] + more.values[name]
            for name in ("gradient_equivalents", "probe_seconds")
        }
        estimate = replace(
            more.estimate, directional_sharpness=found.estimate.directional_sharpness
        )
        return Measurement(
            estimate,
            found.values | more.values | added,
            cost=more.cost,
            seconds=found.seconds + more.seconds,
        )

    def _column(self, rates: Sequence[float]) -> str:
        return "directional_sharpness"

    def _failed(self, step: int, cost: float, why: str, *, floor: bool = False) -> None:
        """As any; a rate of 0 would show nothing, so none is held at the floor."""
        super()._failed(step, cost, why, floor=False)

    def state_dict(self) -> dict[str, Any]:
        """The engine's, and the average; a step that is not taken yet is left out."""
        return super().state_dict() | {"watch": self.watch.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; model, optimizer and settings stay those of the constructor."""
        if "watch" not in state:  # of another signal, whose limits mean nothing here
            state = state | {"ceiling": self.ceiling.state_dict()}
        super().load_state_dict(state)
        if "watch" in state:
            self.watch.load_state_dict(state["watch"])


def make_guard(
    optimizer: Optimizer, model: nn.Module, loss_fn: LossLike, settings: GuardSettings, **more: Any
) -> CurvatureGuard:
    """The engine that the signal asks for.

    Args:
        optimizer, model, loss_fn, settings: See CurvatureGuard.
        more: Keywords of CurvatureGuard.
    """
    watches = thresholds.resolve_signal(settings.signal, optimizer) == trust.SIGNAL
    return (TrustGuard if watches else CurvatureGuard)(optimizer, model, loss_fn, settings, **more)
