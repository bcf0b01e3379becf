"""The engine of every class here: probe when due, lower the ceiling at once, say why."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.errors import MEASUREMENT_ERRORS, NonFiniteError
from homotopy_cli.problems.nest import Batch
from homotopy_cli.records import CurvatureEstimate
from homotopy_cli.schedulers import rules, thresholds
from homotopy_cli.schedulers.alarms import Alarms, as_number
from homotopy_cli.schedulers.cadence import GUARANTEED, Cadence
from homotopy_cli.schedulers.ceiling import SCHEDULE, Ceiling
from homotopy_cli.schedulers.columns import steering_value
from homotopy_cli.schedulers.counting import StepCounter
from homotopy_cli.schedulers.effort import Effort, efforts
from homotopy_cli.schedulers.layer_watch import LayerWatch
from homotopy_cli.schedulers.loss_scaling import unscaled
from homotopy_cli.schedulers.metric import GuardMetric
from homotopy_cli.schedulers.probing import CurvatureProbe, LossLike, Measurement
from homotopy_cli.schedulers.ramp import FIRST_TRUSTED, MeasuredRamp, measured_rise
from homotopy_cli.schedulers.ranks import gradient_is_finite, mean_over_ranks, world_size
from homotopy_cli.schedulers.relapse import Relapse
from homotopy_cli.schedulers.settings import GuardSettings, norm_is_finite
from homotopy_cli.schedulers.targets import target_of
from homotopy_cli.schedulers.telling import GuardEvents


class CurvatureGuard:
    """Watches one optimizer's model and says by which factor its rates must be lowered.

    Args:
        optimizer: Steps are counted by its own step hook, so gradient accumulation counts
            once and a step that a GradScaler skips not at all.
        model: The model in training.
        loss_fn: See CurvatureProbe.
        settings: The numbers.
        gentle: See Ceiling.
        estimator: See CurvatureProbe.
        rise: See Ceiling: mode auto; None: see measured_rise.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        loss_fn: LossLike,
        settings: GuardSettings,
        *,
        gentle: bool = True,
        estimator: CurvatureEstimator | None = None,
        rise: MeasuredRamp | None = None,
    ) -> None:
        self.settings = settings
        self.optimizer = optimizer
        self.events = GuardEvents()
        self.signal = thresholds.choose_signal(settings.signal, optimizer, self.events.add)
        self.probe = CurvatureProbe(
            model,
            loss_fn,
            seed=settings.seed,
            signal=self.signal,
            fraction=settings.signal_fraction,
            estimator=estimator,
        )
        auto, line = rise is not None, rise or measured_rise(settings, self.signal)
        self.layers = LayerWatch(settings)
        self.cadence = Cadence(
            base=settings.estimation_freq,
            burst=settings.burst_steps,
            longest=settings.longest,
            budget=self.layers.rest_of_budget,
            total_steps=settings.total_steps,
            front=settings.front,
            rise_steps=line.ramp_steps if line else 0,
            shortest=min(settings.shortest, settings.estimation_freq) if line else 1,
        )
        self.ceiling = Ceiling(
            optimizer,
            settings,
            signal=self.signal,
            target=target_of(settings, optimizer, model, self.signal, self.events.add, auto=auto),
            n_before=thresholds.next_step(optimizer) - 1,
            gentle=gentle,
            early_steps=self.cadence.early_steps,
            rise=line,
            in_line=auto,
        )
        self._metric = GuardMetric(optimizer, self.signal, self.ceiling.family)
        self.alarms = Alarms()
        self.relapse = Relapse(self.ceiling, self.cadence, self.events)
        self.counter = StepCounter(optimizer)
        self.n_failed = 0
        self.n_failed_in_a_row = 0
        self.last_step = -1  # of the last successful probe
        self.current_curvature = math.nan  # κ of the last probe that had one, 1/loss
        self.last_estimate: CurvatureEstimate | None = None
        self.last: dict[str, Any] = {}  # the last probe as columns of the log
        self.seconds = 0.0  # wall time of all probes; reported, never decides

    @property
    def spent(self) -> float:
        """Gradient-equivalents of all probes so far."""
        return self.cadence.spent + self.layers.cadence.spent

    @property
    def n_steps(self) -> int:
        """Optimizer steps taken since construction."""
        return self.counter.n

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
        """Probe if due and lower the ceiling at once; None where no probe ran or it failed.

        Args:
            batch: The training batch of the gradient that is now in `.grad`.
            rates: Scheduled learning rate of every group.
            paired: See CurvatureProbe.measure.
            loss: Training loss of this step, for the free alarm.
            grad_norm: ‖g‖ of this step, for the free alarm.
            clip_coef: See CurvatureScheduler.update_curvature.

        Raises:
            ProblemError, RuntimeError: The very first probe cannot be taken at all: a mistake
                in the set-up. Once one has succeeded, a failing probe is an event.
        """
        clip_coef = float(clip_coef)  # or a tensor, as clip_grad_norm_ returns the norm
        known = norm_is_finite(clip_coef)
        step, top = self.n_steps, max(rates, default=0.0)
        self.ceiling.advance_to(step, top)
        loss = as_number(loss) if world_size() == 1 else None  # each rank has its own
        alarm = self._alarmed(loss, grad_norm)
        if loss is not None:
            self.relapse(loss, step=step, top=top)
        # then the poorest probe, budget or not
        blind = self.ceiling.holds_blindly(step, self.cadence.last_probe)
        wanted = self.cadence.wants(step)
        if not (blind or wanted or step in GUARANTEED):  # most steps: they cost next to nothing
            self.ceiling.confirm()
            return None
        options = self._efforts(step, rates)
        costs = [self.probe.predicted(effort, batch) for effort in options]
        if blind or wanted:  # ranks with other batch sizes must decide alike
            costs = mean_over_ranks(costs)
        chosen = self.cadence.choose(step, costs)
        if chosen is None:
            if not blind:
                self.ceiling.confirm()
                if wanted:
                    self.events.unwatched(step, self.cadence, costs[-1], self.ceiling)
                return None
            chosen = len(costs) - 1
        effort, cost = options[chosen], costs[chosen]
        overflows = not gradient_is_finite(self.optimizer, known=known)  # no step to judge
        self.events.overflow(overflows, step)
        if overflows:
            self.ceiling.hold()
            return None
        sliced = self.probe.whole
        try:
            rate = top * self.ceiling.factor(top)
            where = {"paired": paired, "step": step, "rate": rate, "metric": self.metric(rates)}
            found = unscaled(
                self._metric,
                lambda: self.probe.measure(batch, effort, **where),
                lambda text: self.events.scaled(step, text),
            )
        except MEASUREMENT_ERRORS as error:
            mean_over_ranks([math.nan] * 3)
            bound_to_fail = isinstance(error, NonFiniteError) or not self._metric.counts_gradient
            if not self.ceiling.measured and not bound_to_fail:
                raise
            return self._failed(step, cost, str(error))
        self.seconds += found.seconds
        self.events.whole(step, self.probe, sliced)
        # In a rise the residual on top would hold down what training can bear.
        upper = step <= self.cadence.early_steps or self.ceiling.rise is None
        both = step < FIRST_TRUSTED and self.ceiling.rise is not None
        column = self._column(rates)
        sharpness = clip_coef * steering_value(found.estimate, column, upper=upper, both=both)
        told = [found.values.get(name, math.nan) for name in ("kappa", "signal_fraction")]
        sharpness, kappa, fraction = mean_over_ranks([sharpness, *told])
        if not math.isfinite(sharpness):
            return self._failed(step, found.cost, f"curvature is {sharpness}")
        self.ceiling.take_fraction(fraction)
        self._take(found, sharpness, kappa, rates, alarm=alarm, clip_coef=clip_coef)
        self._observe_layers(batch, paired=paired)
        return found.estimate

    def _take(
        self,
        found: Measurement,
        sharpness: float,
        kappa: float,
        rates: Sequence[float],
        *,
        alarm: bool,
        clip_coef: float,
    ) -> None:
        """Turn a measurement into a ceiling, the next probe's date, and columns of the log."""
        step, ceiling, top = self.n_steps, self.ceiling, max(rates, default=0.0)
        self.events.watched()
        if self.last_step < 0 and self.probe.guessed:
            self.events.guessed(step, self.probe.guessed)
        used = top * ceiling.factor(top)  # what this step would have used without the probe
        limited = ceiling.reason != SCHEDULE or ceiling.rises(step)
        before = ceiling.edge.curvature
        elapsed = step - self.last_step if self.last_step >= 0 else 1
        self.last_step, self.last_estimate, self.n_failed_in_a_row = step, found.estimate, 0
        ceiling.take(sharpness, kappa, step=step, elapsed=elapsed)
        if math.isfinite(kappa):
            self.current_curvature = kappa
        c = ceiling.threshold(step)
        load = rules.edge_ratio(used, sharpness, c) / ceiling.target
        near = load > (1.25 if limited else 0.8)  # at the ceiling a load of 1 is the plan
        self.cadence.record(
            step,
            found.cost,
            log_change=rules.log_change(before, ceiling.edge.curvature),
            load=min(load, 0.8),
            alarm=alarm or (near and ceiling.acts),
        )
        if ceiling.edge.doubted:
            self.cadence.period = 1
        measured = clip_coef * found.values.get(self._column(rates), math.nan)
        now = rules.edge_ratio(top * ceiling.factor(top), measured, c)
        self.last = found.values | {"edge_ratio": now, "edge_threshold": c}
        if math.isfinite(ceiling.level):
            self.last["ceiling"] = ceiling.level

    def _observe_layers(self, batch: Batch, *, paired: bool) -> None:
        """Measure the layers at a step that was just probed, where layers_freq says so."""
        step = self.n_steps
        if not self.layers.due(step):
            return
        try:
            found = self.layers.measure(self.probe, batch, paired=paired, step=step)
        except MEASUREMENT_ERRORS as error:
            self.events.add(step, "warning", "LAYER_PROBE_FAILED", str(error))
            return
        if found is not None:
            self.seconds += found.seconds
            self.last |= found.columns
            self.last["gradient_equivalents"] += found.cost
            self.last["probe_seconds"] += found.seconds

    def metric(self, rates: Sequence[float]) -> Callable[[list[Tensor]], Tensor | None]:
        """Live parameters -> P for these group rates."""
        return self._metric.at(rates)

    def _column(self, rates: Sequence[float]) -> str:
        """Which column of the log steers."""
        return self._metric.column(rates)

    def _failed(self, step: int, cost: float, why: str, *, floor: bool = True) -> None:
        """Keep the last ceiling, count, say so, and try again soon (1, 2, 4, ... steps later)."""
        self.n_failed += 1
        if floor:
            self.ceiling.hold()
        self.cadence.record(step, cost, log_change=math.inf, load=0.0)
        self.cadence.period = min(self.cadence.base, 2**self.n_failed_in_a_row)
        self.n_failed_in_a_row = row = self.n_failed_in_a_row + 1
        self.events.failed(step, self.cadence.n_probes, why, self.ceiling, row=row)

    def _efforts(self, step: int, rates: Sequence[float]) -> list[Effort]:
        """What the plan wants of this step's probe, and what it makes do with."""
        ceiling = self.ceiling
        return efforts(
            self.settings,
            signal=self.signal,
            cold=not ceiling.measured,
            early=step <= self.cadence.early_steps,
            stale=ceiling.is_stale(step),
            scaled=self._column(rates) != "lambda_max",
            kappa_steers=ceiling.kappa_target is not None,
            n_probes=self.cadence.n_probes,
            left=self.cadence.left(step),
        )

    def _alarmed(self, loss: float | None, grad_norm: float | Tensor | None) -> bool:
        """Whether a free alarm fires."""
        fired = self.alarms(loss, as_number(grad_norm))
        if fired:
            self.cadence.hasten()
        self.events.alarm(fired, self.n_steps)
        return bool(fired)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors; no wall time, so that the same seed gives the same bytes."""
        return {name: getattr(self, name).state_dict() for name in _PARTS} | {
            "counters": {name: getattr(self, name) for name in _COUNTERS},
            "n_steps": self.n_steps,
            "counts_gradient": self._metric.counts_gradient,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; model, optimizer and settings stay those of the constructor."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        for name in _COUNTERS:
            setattr(self, name, state["counters"][name])
        self.counter.n = state["n_steps"]
        self._metric.counts_gradient = state["counts_gradient"]


_PARTS = ("ceiling", "cadence", "layers", "probe", "events", "alarms", "relapse")
_COUNTERS = ("n_failed", "n_failed_in_a_row", "last_step", "current_curvature")
