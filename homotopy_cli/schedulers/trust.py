"""Trust ratio: whether a step that was really taken lowered the loss as its gradient promised.

Lion, Muon, Adafactor or an optimizer of your own have no linear edge of stability, but their steps
can be watched. With δ = θ' - θ, the change that one optimizer step made, and one slice of rows,

    a = -g'δ               the decrease that the gradient promises
    q = L(θ') - L(θ) + a   what curvature takes back; ½δ'Hδ on a quadratic
    trust ratio            (L(θ) - L(θ'))/a = 1 - ρ,    ρ = q/a

ρ grows in proportion to the learning rate along a given direction, so it is an edge ratio: the
curvature along the step is λ = 2ρ/η with the edge at ηλ = 2. At ρ = 1/2 the step gained most, at
ρ = 1 it gained nothing; every linear method whose iterate flips its sign, gradient descent or heavy
ball at its edge, has ρ = 1 there. Trust-region methods shrink where the trust ratio is below 1/4
(Nocedal & Wright 2006, algorithm 4.1; their model has curvature, this one is the gradient alone).

It costs one gradient and two forward passes of the slice, and two vectors of the parameters' size
from one step to the next. ρ of one step and one slice is noisy (0.27 to 1.18 around 0.58 on a
six-layer GPT), a single wild step may read 4, and a may be negative. So what steers is the
log-average of the last readings, each taken within [LEAST, WORST]: no rate beyond 7.5
times one that was tried is ever trusted.
"""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from torch.optim import Optimizer

from homotopy_cli.curvature.taken import Change, Departure, arrive, depart
from homotopy_cli.problems.nest import Batch
from homotopy_cli.records import CurvatureEstimate, HvpCost
from homotopy_cli.schedulers import rules
from homotopy_cli.schedulers.cadence import GRADIENT_LAUNCHES, PASS, PASS_LAUNCHES
from homotopy_cli.schedulers.fraction import Alignment
from homotopy_cli.schedulers.probing import CurvatureProbe, Measurement
from homotopy_cli.schedulers.thresholds import DESCENT

SIGNAL = "trust_ratio"
KEPT = 0.7  # what the log-average keeps per reading; our choice
LEAST = 0.1  # ρ of a step whose curvature is not seen, or is negative; our choice
WORST = 4.0  # ρ of a step uphill that raised the loss, and of one that ended in NaN; our choice
PASSES = 1.7  # a gradient, and two forward passes at a third of its cost and a little


def cost(share: float, per_pass: float) -> float:
    """G of one reading on a slice of this share of the batch; its passes are plain: see cadence."""
    return PASSES * share + 3.0 * max(PASS, per_pass * GRADIENT_LAUNCHES / PASS_LAUNCHES)


@dataclass(frozen=True)
class Armed:
    """A point just before a step: what it takes to see how the step went."""

    step: int
    batch: Batch  # the slice
    paired: bool
    rate: float
    share: float  # of the batch's rows
    start: Departure
    n_terms: int
    signal_fraction: float  # NaN where not asked for
    seconds: float
    cost: float  # G


@dataclass(frozen=True)
class Reading:
    """One watched step, in plain numbers."""

    step: int
    rate: float  # η
    change: Change
    n_params: int
    n_terms: int
    signal_fraction: float
    seconds: float
    cost: float  # G

    @property
    def trust_ratio(self) -> float:
        """(L(θ) - L(θ'))/a of this step alone; NaN where no decrease was promised."""
        c = self.change
        seen = c.promised > c.rounding and math.isfinite(c.taken_back)
        return 1.0 - c.taken_back / c.promised if seen else math.nan

    @property
    def ratio(self) -> float:
        """ρ within [LEAST, WORST]."""
        c = self.change
        rise = c.taken_back - c.promised
        if c.promised > c.rounding and math.isfinite(rise):
            return min(WORST, max(LEAST, c.taken_back / c.promised))
        return LEAST if rise <= c.rounding else WORST


class TrustWatch:
    """Sees one step at a time, and averages what it saw.

    Args:
        probe: Whose slices, loss and model to use.
        optimizer: Whose steps; what others move at the same time is no part of them.
    """

    def __init__(self, probe: CurvatureProbe, optimizer: Optimizer) -> None:
        self.probe, self.optimizer = probe, optimizer
        self.armed: Armed | None = None
        self.reading: Reading | None = None  # not taken yet
        self.average: float | None = None  # of λ = 2ρ/η, 1/lr

    def arm(self, batch: Batch, fraction: float, *, paired: bool, step: int, rate: float) -> None:
        """Remember where optimizer step `step` starts, and the slice's loss and gradient there.

        Args:
            batch: The training batch; a slice of it is used.
            fraction: Its share of the rows.
            paired: See CurvatureProbe.measure.
            step: Optimizer step about to be taken.
            rate: The largest group's learning rate in it.

        Raises:
            ProblemError, NonFiniteError, RuntimeError: As the model or the loss.
        """
        started = time.perf_counter()
        self.armed = None
        problem, share = self.probe.problem(batch, fraction, paired=paired, step=step)
        start = depart(problem)
        told = math.nan
        if self.probe.fraction:
            alignment = Alignment(list(problem.model_params.values()), None)
            alignment(start.gradient)
            told = alignment.signal_fraction(share)
        self.armed = Armed(
            step=step,
            batch=self.probe.part(batch, fraction),  # the problem's own may be empty on a rank
            paired=paired,
            rate=rate,
            share=share,
            start=start,
            n_terms=problem.n_terms,
            signal_fraction=told,
            seconds=time.perf_counter() - started,
            cost=cost(share, self.probe.per_pass),
        )

    def settle(self, n_steps: int) -> None:
        """Read the armed step, if it has been taken; a step that was skipped is forgotten.

        Raises:
            HomotopyError, RuntimeError: The model or the loss fails where it did not before.
        """
        armed = self.armed
        if armed is None or n_steps <= armed.step:
            return
        self.armed = None
        if n_steps > armed.step + 1 or not armed.rate > 0.0:
            return  # several steps lie between
        started = time.perf_counter()
        problem = self.probe.over(armed.batch, paired=armed.paired, step=armed.step)
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        own = [id(p) in held for p in problem.model_params.values()]
        change = arrive(problem, armed.start, own)
        if change is None:
            return
        self.reading = Reading(
            step=armed.step,
            rate=armed.rate,
            change=change,
            n_params=problem.n_params,
            n_terms=armed.n_terms,
            signal_fraction=armed.signal_fraction,
            seconds=armed.seconds + time.perf_counter() - started,
            cost=armed.cost,
        )

    def take(self, *, fresh: bool) -> Measurement | None:
        """The reading that waits, averaged in, as a measurement; None where none waits.

        Args:
            fresh: Forget the averages: in the start they are of another landscape.
        """
        found, self.reading = self.reading, None
        if found is None:
            return None
        before = None if fresh else self.average
        new = DESCENT * found.ratio / found.rate
        unseen = found.ratio <= LEAST and before is not None
        # Not seen at a low rate says that λ is no larger, and nothing about how large it is.
        sharpness = min(before, new) if unseen else rules.log_average(before, new, KEPT)
        self.average = sharpness
        estimate = CurvatureEstimate(
            n_params=found.n_params,
            n_terms=found.n_terms,
            loss=found.change.loss,
            grad_norm=found.change.grad_norm,
            lambda_max=None,
            lambda_min=None,
            eigenvalues=(),
            hessian_norm=None,
            kappa=None,
            kappa_reason=f"not measured by this probe: signal {SIGNAL} takes no Hessian product",
            cost=HvpCost(SIGNAL, "", 0, found.cost, found.seconds),
            directional_sharpness=sharpness,
            mode="train",
        )
        values = {
            "directional_sharpness": sharpness,
            "trust_ratio": found.trust_ratio,
            "signal_fraction": found.signal_fraction,
            "n_hvp": 0.0,
            "probe_loss": found.change.loss,
            "probe_grad_norm": found.change.grad_norm,
            "gradient_equivalents": found.cost,
            "probe_seconds": found.seconds,
        }
        seen = {name: value for name, value in values.items() if math.isfinite(value)}
        return Measurement(estimate, seen, cost=0.0, seconds=found.seconds)  # booked already

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and no wall time; a step that is armed and not taken yet is left out."""
        reading = None if self.reading is None else asdict(self.reading) | {"seconds": 0.0}
        return {"average": self.average, "reading": reading}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.armed = None
        self.average = state["average"]
        told = state["reading"]
        self.reading = told and Reading(**told | {"change": Change(**told["change"])})
