"""When to probe: a dense start, an adaptive period, and a budget that little may exceed.

Cost is counted in G, the gradient-equivalents of the training batch (one forward and backward
pass over all of it). A probe with n Hessian products on a share f of the batch's rows costs

    f·(1.2 + 2.8·n) + p·(2 + n),    p = 0.1 on a CPU

1.2 builds the gradient's graph. A product is 2 in FLOPs (3.00 for the first together with the
graph, 2.00 for each further one) and 2.8 in seconds. p is what a pass costs however small its
slice. Measured on a GPT of 0.3 M parameters on one CPU thread, CPU time of 32 kinds of probe
(f from 1/16 to 1, n from 2 to 10): within 11 %, and rather over than under where f < 1. On larger
models it over-counts: probing then takes less than its budget.

On a GPU launching kernels takes the time, however few rows they work on: a pass that is
differentiated twice launches ten times what a gradient does. There p = launches/gradient, both in
seconds of an H200: PASS_LAUNCHES per parameter tensor, over the larger of what float32 arithmetic
(6 FLOP per parameter and loss term) and launching (GRADIENT_LAUNCHES per tensor) take. Within 30 %
on GPTs of 0.3 and 11 M parameters. Of other nets, small enough for p = 2.5, a product took 3.3 to
4.3 gradients with BatchNorm (ResNets), 1.4 without (a CNN, an MLP). It over-counts on slower GPUs
and under-counts where autocast halves the gradient's time.

Predicted cost decides and spent cost is booked, both from counts: the same seed probes at the same
steps on every machine with the same kind of device. Wall time is reported, and never decides.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from homotopy_cli.schedulers import rules

UNKNOWN_HORIZON = 1000  # steps over which the start is spread when the run's length is unknown
FRONT = 0.5  # share of the allowance that may be spent at once; our choice
AT_ONCE = 0.4  # of that share, where a measured rise follows; our choice
GUARANTEED = frozenset({0, 1, 2, 4, 8, 16})  # a ceiling that is never measured again is no guard


PASS = 0.1  # p on a CPU, G
PASS_LAUNCHES = 0.33e-3  # s per parameter tensor and pass, on a GPU
GRADIENT_LAUNCHES = 0.13e-3  # s per parameter tensor
FLOPS = 35e12  # a second, float32, of a training step


def probe_cost(fraction: float, n_products: float, per_pass: float = PASS) -> float:
    """What a probe with n Hessian products on a slice f costs, in G: see the module."""
    return fraction * (1.2 + 2.8 * n_products) + per_pass * (2.0 + n_products)


def pass_cost(device: str, *, n_tensors: int, n_params: int, n_terms: float) -> float:
    """p: what a pass costs however small its slice, in G: see the module.

    Args:
        device: Type of the device.
        n_tensors, n_params: Of the trainable parameters.
        n_terms: Loss terms in one rank's training batch: rows, or tokens.
    """
    if device == "cpu":
        return PASS
    arithmetic = 6.0 * n_params * n_terms / FLOPS
    gradient = max(arithmetic, GRADIENT_LAUNCHES * n_tensors)
    return max(PASS, PASS_LAUNCHES * n_tensors / gradient)


@dataclass
class Cadence:
    """Decides at which optimizer steps a probe runs.

    At most one probe per optimizer step: gradient accumulation and a step that a GradScaler
    skipped ask again at the same step and get no. The share `front` of the run's allowance
    may be spent at once, which pays for the start; the rest accrues with the steps. Where rates
    rise in a measured line, only AT_ONCE of that share is there at once, and the rest of it
    accrues over the rise, all of which wants to be watched. Steps 0, 1, 2, 4, 8 and 16 probe in
    any case, so that a run too short to afford its start is still guarded; its true share is
    reported as it is. So is that of a ceiling which holds rates down on old evidence: see
    Ceiling.holds_blindly.
    """

    base: int = 10  # estimation_freq, steps
    burst: int = 8  # steps at the start that want a probe each
    longest: int = 200  # steps
    budget: float = 0.05  # share of all gradient-equivalents; inf = no limit
    total_steps: int = 0  # 0 = unknown
    shortest: int = 1  # steps between two probes after the burst
    front: float = FRONT  # share of the allowance that may be spent at once
    rise_steps: int = 0  # length of the measured rise; 0 = none
    period: int = 1  # steps until the next probe is wanted
    last_probe: int = -1  # optimizer step of the last probe
    spent: float = 0.0  # G
    n_probes: int = 0
    n_denied: int = 0  # probes that were wanted and not affordable

    def allowance(self, step: int) -> float:
        """G that may have been spent by the time optimizer step `step` (0-based) is probed."""
        horizon = self.total_steps or UNKNOWN_HORIZON
        ahead = max(0.0, 1.0 - step / self.rise_steps) if self.rise_steps else 0.0
        front = self.front * (1.0 - (1.0 - AT_ONCE) * ahead)
        early = front * horizon + (1.0 - self.front) * step
        due = early if step < horizon else float(step)
        return self.budget * due

    def left(self, step: int) -> float:
        """G that may be spent at optimizer step `step`; negative after guaranteed probes."""
        return self.allowance(step) - self.spent

    def affords_from(self, step: int, cost: float) -> int | None:
        """The first step from `step` on that can pay `cost` G.

        None: none in the run, or in UNKNOWN_HORIZON steps where its length is unknown.
        """
        steps = range(step, self.total_steps or step + UNKNOWN_HORIZON)
        at = bisect_left(steps, cost, key=self.left)
        return steps[at] if at < len(steps) else None

    def in_burst(self, step: int) -> bool:
        """Whether the curvature still moves by factors a step."""
        return step < self.burst

    @property
    def early_steps(self) -> int:
        """Last step of the start: small slices, more Lanczos steps, no averaging."""
        return max(self.burst - 1, *GUARANTEED)

    def wants(self, step: int) -> bool:
        """Whether the plan has a probe at this step, if it can be afforded."""
        planned = self.in_burst(step) or step - self.last_probe >= self.period
        return step > self.last_probe and planned

    def due(self, step: int, cost: float) -> bool:
        """Whether to probe at optimizer step `step` for a predicted `cost` in G."""
        return self.choose(step, [cost]) is not None

    def choose(self, step: int, costs: Sequence[float]) -> int | None:
        """The first of some efforts, dearest first, that step `step` can pay; None: no probe.

        Args:
            step: Optimizer step.
            costs: Predicted, in G.
        """
        if step <= self.last_probe:
            return None
        if step in GUARANTEED:
            return 0
        if not self.wants(step):
            return None
        left = self.left(step)
        for i, cost in enumerate(costs):
            if cost <= left:
                return i
        self.n_denied += 1
        return None

    def record(
        self, step: int, cost: float, *, log_change: float, load: float, alarm: bool = False
    ) -> None:
        """Book a probe and plan the next one (rules.next_period)."""
        self.spent += cost
        self.n_probes += 1
        self.last_probe = step
        if self.in_burst(step):
            self.period = 1
            return
        planned = rules.next_period(
            self.period,
            base=self.base,
            longest=self.longest,
            log_change=log_change,
            load=load,
            alarm=alarm,
        )
        self.period = max(self.shortest, planned)

    def hasten(self) -> None:
        """A free alarm fired: quarter the period."""
        self.period = min(self.period, max(self.shortest, self.period // 4))

    def state_dict(self) -> dict[str, Any]:
        """The counters; the settings belong to the constructor."""
        return {name: getattr(self, name) for name in _COUNTERS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the counters."""
        for name in _COUNTERS:
            setattr(self, name, state[name])


_COUNTERS = ("period", "last_probe", "spent", "n_probes", "n_denied")
