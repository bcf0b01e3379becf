"""HomotopyLR: a schedule under a curvature ceiling."""

from collections.abc import Callable
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.schedulers import trust
from homotopy_cli.schedulers.base import CurvatureScheduler
from homotopy_cli.schedulers.groups import unwrapped
from homotopy_cli.schedulers.length import run_length
from homotopy_cli.schedulers.probing import LossLike
from homotopy_cli.schedulers.ramp import START, MeasuredRamp
from homotopy_cli.schedulers.settings import GuardSettings, Signal, within
from homotopy_cli.schedulers.thresholds import resolve_signal

BUDGET = {"guard": 0.05, "auto": 0.03}  # share of the work; our choice


class HomotopyLR(CurvatureScheduler):
    """lr_g = schedule_g / (1 + α·max(0, ratio - 1)), one factor for all groups.

    With the default signal the ratio is ρ/target, ρ = η·λ/c: the scheduled rate against the
    edge of stability of *this* optimizer, λ measured in its own metric. At α = 1 that law is
    exactly min(schedule, target·c/λ): a ceiling. With `signal="kappa"` the ratio is
    κ/curvature_target (the κ law); a `curvature_target` given with another signal
    adds that law to the edge's, and the lower rate holds.

    Without an inner schedule, or with one that starts at its full rate, the ceiling is the
    warmup: it rises from the first, extreme curvature by at most `release` a step. Under a
    schedule that warms up by itself it follows the measurement through the start instead.

    Where λ(P⁻¹H) steers and total_steps is known, a schedule that asks in the first steps for
    more than the edge allows is held to a straight line through the first `warmup` of the run,
    which the start's curvature suggests (ramp.py): a rate that shoots up to the edge is paid for
    to the end of the run. And a schedule whose peak is refused decays from what it was let reach
    (limits.Reach), so that a rate given thirty times too high ends as the right one does. No rate
    is held below `floor` of the schedule.

    A probe's rise in curvature lowers the rate of the very step it precedes; a fall raises it
    by at most `release` per step. After the start one probe alone at most halves the edge's limit;
    the next step's confirms the rest of the cut or takes it back. A failed probe keeps the last
    ceiling.

    With `mode="auto"` there is no learning rate, warmup or peak to choose: the rate starts at a
    share of the measured edge, rises in a straight line through the first part of the run as
    far as the edge ratio allows, under the ceiling as any schedule, stays there, and decays in the
    last fifth (see ramp.py). The groups' rates then only say how the groups relate to each other.

    Args:
        optimizer, model, loss_fn, base_lr, inner, enabled, estimator, last_epoch: See
            CurvatureScheduler. Mode auto has neither base_lr nor inner.
        mode: "guard" limits the schedule that is given; "auto" makes its own.
        warmup: Share of total_steps at which the measured line stops rising; None: 0.25, in mode
            auto a tenth, though at least 200 steps and at most a quarter of the run. Under mode
            guard 0 lets rates rise as fast as the edge allows.
        start_ratio: Edge ratio at which the line starts; None: by the length of the rise.
        final: Last rate of mode auto over its peak.
        scale_decay: Let a schedule whose peak was refused decay from what it reached. False is
            min(schedule, limits), which does not decay while the schedule is above them.
        curvature_target: κ above which the κ law bites, 1/loss; 1e4 where the signal is
            "kappa" and nothing is given.
        alpha: Strength of the formula; 0 measures without acting.
        estimation_freq: Base probe period in optimizer steps; the period adapts around it, and
            `budget` has the last word.
        smoothing: What the log-average of λ keeps per optimizer step; the ceiling uses
            max(newest, average), so this delays only a release.
        signal: "auto" takes preconditioned_sharpness for Adam, AdamW, NAdam, RMSprop, Adagrad,
            sharpness for SGD and trust_ratio for the rest, and says so in an event. "trust_ratio"
            watches the steps that were taken: see trust.py. "directional" is u'Hu/u'Pu along
            u = P⁻¹g: the least cautious, it reacts to a real crossing only. "secant" and
            "forward" find it by ordinary passes, so far as the loss is a quadratic there: beyond
            the edge they see less. See along.py.
        signal_fraction: Multiply the ceiling by the share of the gradient that is signal, not
            batch noise: see fraction.py. A noisy batch then asks for smaller steps.
        target: Edge ratio to stay under; None takes 0.9, under trust_ratio 0.75, in mode auto 1;
            and where SGD trains a network without normalisation, which comes back from no step
            beyond the edge, less: see targets.py. At 1 a quadratic no longer converges. λ(P⁻¹H) is
            held against what a live P bears: see thresholds.live_threshold.
        budget: Share of the run's gradient-equivalents that probes may cost: see cadence.py. None
            takes 0.05, in mode auto 0.03, with which a six-layer GPT ended no worse.
        total_steps: Optimizer steps of the run; 0: those of an inner schedule that ends with it
            (length.py), said in an event. Where none is known the start is paid for over 1000
            steps, no line holds a rate far too high, and mode auto rises for 1000 and never decays;
            each is said in an event.
        floor: Least factor on the schedule.
        release: Largest rise of the ceiling per optimizer step; None takes 1.05, or in a run of
            fewer than 380 steps what brings it from the floor to its level in a quarter of the run.
        probe_fraction: Share of the batch's rows that a probe measures, halved in the first
            steps unless it is 1. On a small GPT λ from
            1/16, 1/8 and all of 32 rows agreed within 20 % as a rule, on a six-layer one at high
            rates 1/8 read about 1.5 times what 1/4 did; data with one label per row may want
            more.
        burst: Optimizer steps at the start that want a probe each; None takes 0.4 %
            of total_steps within 2 to 20, or 4.
        kappa_freq: Probes between two that measure H itself, and with it κ, where λ(P⁻¹H) is
            what steers; in the start of a short run only the first does. Every probe does where κ
            or λ(H) steers. κ costs as much as the ceiling does, and more frequent probes are
            worth more.
        layers_freq: Steps between per-layer probes, where the budget allows; 0 = never.
        lanczos_steps: Hessian products per probe and matrix, warm-started.
        burst_lanczos_steps: The same for the first probe, which starts cold; one less in
            the first steps after, where the metric turns fast.
        longest: Longest probe period in optimizer steps.
        seed: Of start vectors and dropout masks in probes.

    Source: the formula is our own; signal and thresholds after Cohen et al. 2021 (arXiv:2103.00065)
    and 2022 (arXiv:2207.14484); the control law's numbers are our choice.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module | None = None,
        loss_fn: LossLike = None,
        base_lr: float | None = None,
        *,
        curvature_target: float | None = None,
        alpha: float = 1.0,
        estimation_freq: int = 10,
        smoothing: float = 0.9,
        signal: Signal = "auto",
        signal_fraction: bool = False,
        target: float | None = None,
        mode: Literal["guard", "auto"] = "guard",
        warmup: float | None = None,
        start_ratio: float | None = None,
        final: float = 0.1,
        scale_decay: bool = True,
        inner: Callable[[int], float] | LRScheduler | None = None,
        budget: float | None = None,
        total_steps: int = 0,
        floor: float = 1e-2,
        release: float | None = None,
        probe_fraction: float = 0.125,
        burst: int | None = None,
        kappa_freq: int = 4,
        layers_freq: int = 0,
        lanczos_steps: int = 3,
        burst_lanczos_steps: int = 5,
        longest: int = 200,
        seed: int = 0,
        enabled: bool = True,
        estimator: CurvatureEstimator | None = None,
        last_epoch: int = -1,
    ) -> None:
        if isinstance(optimizer, Optimizer):
            optimizer = unwrapped(optimizer)
        if mode not in BUDGET:
            raise ValueError(f"mode is {mode!r}: one of {', '.join(BUDGET)}")
        self.ramp = None
        within("final", final, "[0, 1]")
        known_by = ""  # where total_steps stands, if it is not given
        if not total_steps:
            total_steps, known_by = run_length(inner)
        if mode == "auto":
            if type(self)._after_probe is not HomotopyLR._after_probe:
                raise ValueError(f"{type(self).__name__} has no mode auto: use HomotopyLR")
            if warmup is not None and not 0.0 < warmup <= 1.0:
                raise ValueError(f"warmup is {warmup}: mode auto rises, so it must be in (0, 1]")
            if base_lr is not None or inner is not None or not enabled:
                raise ValueError("mode auto measures its rates: no base_lr, inner or enabled=False")
            if resolve_signal(signal, optimizer) == trust.SIGNAL:
                name = type(optimizer).__name__
                raise ValueError(
                    f"mode auto knows no curvature of {name} before its first step (signal "
                    "trust_ratio): use mode guard"
                )
            self.ramp = MeasuredRamp(total_steps, start_ratio, warmup, final)
            base_lr = 1.0
            burst = START + 1 if burst is None else burst
        settings = GuardSettings(
            signal=signal,
            signal_fraction=signal_fraction,
            target=target,
            warmup=GuardSettings.warmup if warmup is None else warmup,
            start_ratio=start_ratio,
            scale_decay=scale_decay,
            curvature_target=curvature_target,
            alpha=alpha,
            smoothing=smoothing,
            release=release,
            floor=floor,
            estimation_freq=estimation_freq,
            burst=burst,
            longest=longest,
            budget=BUDGET[mode] if budget is None else budget,
            total_steps=total_steps,
            probe_fraction=probe_fraction,
            lanczos_steps=lanczos_steps,
            burst_lanczos_steps=burst_lanczos_steps,
            kappa_freq=kappa_freq,
            layers_freq=layers_freq,
            seed=seed,
        )
        super().__init__(
            optimizer,
            model,
            loss_fn,
            settings,
            base_lr=base_lr,
            inner=inner,
            enabled=enabled,
            estimator=estimator,
            rise=self.ramp,
            assumed_steps=total_steps if known_by else 0,
            last_epoch=last_epoch,
        )
        if known_by and enabled:
            self._guard.events.length(total_steps, known_by)
        elif self.ramp is not None and not total_steps:
            self._guard.events.endless(self.ramp.ramp_steps)
        elif enabled:
            self._guard.events.unlined(self._guard.settings, self.signal)

    def _has_warmup(self) -> bool:
        return self.ramp is not None or super()._has_warmup()

    def _scheduled(self, step: int) -> list[float]:
        """Under auto the groups' rates relative to the largest, times the measured one."""
        plan = super()._scheduled(step)
        if self.ramp is None:
            return plan
        rate = self.ramp(self._guard.n_steps if hasattr(self, "_guard") else 0)
        return [share * rate for share in plan]

    def _after_probe(self, batch: Any, *, paired: bool) -> None:
        if self.ramp is not None and self.ramp.ended:
            text = f"the rise ends at rate {self.ramp.rate:.3g}"
            if self.ramp.total_steps:
                text += f", which decays after step {self.ramp.decay_from}"
            self._guard.events.add(self._guard.last_step, "info", "RAMP", text)
