"""Where each optimizer starts to diverge on a quadratic: the edge ηλ = c.

On L = λx²/2 with the preconditioner P held fixed (λ is then meant in that metric, λ_max(P⁻¹H)),
every optimizer here is a two-term linear recurrence in (x, m) with a = ηλ:

    m' = b·m + G·x            momentum buffer; b its decay, G the gradient's gain
    x' = (1 - ηγ)·x - a·(A·x + B·m')      A, B: weights of gradient and buffer in the update

Its characteristic polynomial crosses the unit circle at z = -1, which gives the edge

    a = (1 + b)(2 - ηγ) / (A(1 + b) + B·G) = c,       γ: decoupled weight decay

    optimizer              b    G      A            B                  c
    SGD                    0    -      1            0                  2
    SGD, momentum          μ    1-d    0            1                  2(1+μ)/(1-d)
    SGD, Nesterov          μ    1      1            μ                  2(1+μ)/(1+2μ)
    Adam, AMSGrad          β₁   1-β₁   0            1/(1-β₁ᵗ)          2(1+β₁)(1-β₁ᵗ)/(1-β₁)
    NAdam                  β₁   1-β₁   (1-μₜ)/(1-Π)  μₜ₊₁/(1-Πμₜ₊₁)     see table
    RMSprop (momentum μ)   μ    1      0            1                  2(1+μ)
    Adagrad                0    -      1            0                  2·(1 + (t-1)·lr_decay)

A second root could cross at |z| = 1 with complex z only where b(1 - aA) leaves (-1, 1), which
for these coefficients happens later than z = -1 (tests/schedulers/test_thresholds.py simulates
each torch optimizer). Weight decay acts as added curvature: γ for SGD (coupled), c₀γ/2 for
decoupled decay, so the edge is at η(λ + shift) = c₀. Sign methods (Lion) and Muon have
none: their steps are watched instead (trust).

A live P is another matter. It follows the gradient, so a coordinate that begins to swing is
divided by more at once, and with batches these methods train far beyond the edge of a P held
fixed: a ceiling there holds RMSprop, Adagrad, NAdam and Adam with β₁ <= 0.5 at a tenth of their
best rates. Adam with β₁ = 0.9 has the room in its c = 38. So λ(P⁻¹H) is held against
`live_threshold`: c, raised to LIVE in units of the rate that the optimizer's momentum amounts to.

Sources: Cohen et al. 2021 (arXiv:2103.00065) SGD, momentum, Nesterov; Cohen et al. 2022
(arXiv:2207.14484) Adam, 38 at β₁ = 0.9; the general form, bias correction, dampening, NAdam,
Adagrad and decoupled decay derived here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch.optim import Optimizer

from homotopy_cli.curvature.families import (
    PRECONDITIONED,
    UNKNOWN,
    is_decoupled,
    optimizer_family,
)
from homotopy_cli.records import EventLevel

DESCENT = 2.0  # c of gradient descent
# ηλ(P⁻¹H) that a live P bears. Measured: an MLP and a convolutional net with BatchNorm on digits
# and a two-layer GPT, 300 to 400 steps, the best rate and 10 and 100 times it, two or three seeds;
# 12, 16 and 20 tried. With 12 RMSprop and Adagrad lose at their best rates; with 20 Adam
# (β₁ <= 0.5) was lost in 3 of 12 runs at ten times its own.
LIVE = {"adam": 16.0, "nadam": 16.0, "rmsprop": 20.0, "adagrad": 20.0}


@dataclass(frozen=True)
class EdgeLaw:
    """The edge of one parameter group at one step: η(λ + shift) = c₀."""

    c0: float  # dimensionless: the edge without weight decay
    shift: float = 0.0  # 1/lr: what weight decay adds to the curvature

    def threshold(self, lr: float) -> float:
        """c such that the edge is at ηλ = c, for this η; dimensionless, floored at c₀/1000."""
        return max(1e-3 * self.c0, self.c0 - lr * self.shift)


def edge_law(family: str, group: Mapping[str, Any], step: int) -> EdgeLaw:
    """The edge of one parameter group for its optimizer step number `step` (1-based).

    Coupled weight decay is exact for SGD. Under an adaptive optimizer it would enter as
    γ/P, different for each coordinate; it is left out there (γ = 0.01 shifts c by 0.01·η/P).
    """
    t = max(1, step)
    decay = float(group.get("weight_decay", 0.0))
    if family == "sgd":
        b = float(group["momentum"])
        if group["nesterov"]:
            c0 = _edge(b, gain=1.0, gradient=1.0, buffer=b)
        else:
            c0 = _edge(b, gain=1.0 - float(group["dampening"]), gradient=0.0, buffer=1.0)
            if b == 0.0:  # torch keeps no buffer then, so dampening does nothing
                c0 = 2.0
        return EdgeLaw(c0, decay)
    if family == "adam":
        b = float(group["betas"][0])
        c0 = _edge(b, gain=1.0 - b, gradient=0.0, buffer=1.0 / (1.0 - b**t))
    elif family == "nadam":
        c0 = _nadam_edge(group, t)
    elif family == "rmsprop":
        c0 = _edge(float(group["momentum"]), gain=1.0, gradient=0.0, buffer=1.0)
    elif family == "adagrad":
        c0 = 2.0 * (1.0 + (t - 1) * float(group["lr_decay"]))
    else:
        return EdgeLaw(DESCENT)
    return EdgeLaw(c0, 0.5 * c0 * decay if is_decoupled(group) else 0.0)


def stability_threshold(
    optimizer: Optimizer | Mapping[str, Any],
    step: int | None = None,
    *,
    family: str | None = None,
    lr: float | None = None,
) -> float:
    """c such that the edge of stability is at ηλ = c; dimensionless.

    Args:
        optimizer: An optimizer (the smallest c of its groups) or one parameter group.
        step: Number of the optimizer step that is about to be taken, from 1; taken from the
            optimizer's state where left out, and 10⁹ (no bias correction) for a bare group.
        family: Needed for a bare group: see curvature.families.
        lr: η in the weight-decay correction; the group's own where left out.

    Returns:
        2 for "unknown": the edge of gradient descent, a guess that the caller must say.
    """
    if isinstance(optimizer, Optimizer):
        family = family or optimizer_family(optimizer)
        at = next_step(optimizer) if step is None else step
        return min(
            stability_threshold(group, at, family=family, lr=lr) for group in optimizer.param_groups
        )
    if family is None:
        raise ValueError("stability_threshold of a parameter group needs family=")
    law = edge_law(family, optimizer, 10**9 if step is None else step)
    return law.threshold(float(optimizer["lr"]) if lr is None else lr)


def live_threshold(
    optimizer: Optimizer | Mapping[str, Any],
    step: int | None = None,
    *,
    family: str | None = None,
    lr: float | None = None,
) -> float:
    """The ηλ(P⁻¹H) to hold 1 against: c, or more where a live P bears more; see the module.

    Equal to `stability_threshold` for SGD, for Adam from β₁ = 0.78 and RMSprop from momentum 0.82.

    Args:
        optimizer, step, family, lr: See stability_threshold.
    """
    if isinstance(optimizer, Optimizer):
        family = family or optimizer_family(optimizer)
        at = next_step(optimizer) if step is None else step
        return min(
            live_threshold(group, at, family=family, lr=lr) for group in optimizer.param_groups
        )
    c = stability_threshold(optimizer, step, family=family, lr=lr)
    return c * _live_room(family, optimizer, 10**9 if step is None else step)


def _live_room(family: str, group: Mapping[str, Any], t: int) -> float:
    """LIVE over the linear edge without bias correction, at least 1."""
    if family == "adam":
        b = float(group["betas"][0])
        c = _edge(b, gain=1.0 - b, gradient=0.0, buffer=1.0)
    elif family == "nadam":
        b, now, then = float(group["betas"][0]), _nadam_mu(group, t), _nadam_mu(group, t + 1)
        c = _edge(b, gain=1.0 - b, gradient=1.0 - now, buffer=then)
    elif family == "rmsprop":
        b = float(group["momentum"])  # adds up 1/(1 - b) gradients
        c = _edge(b, gain=1.0, gradient=0.0, buffer=1.0) / (1.0 - b)
    elif family == "adagrad":
        c = DESCENT
    else:
        return 1.0
    return max(1.0, LIVE[family] / c)


def refuse_maximize(optimizer: Optimizer) -> None:
    """Raise ValueError where a group climbs: the edge is that of a descent, and signed."""
    if any(group.get("maximize") for group in optimizer.param_groups):
        raise ValueError(
            "maximize=True: the edge of stability is that of a descent; "
            "minimise the negative of your objective instead"
        )


def next_step(optimizer: Optimizer) -> int:
    """The number, from 1, of the step the optimizer is about to take (its own state's count)."""
    for state in optimizer.state.values():
        if isinstance(state, dict) and "step" in state:
            return int(state["step"]) + 1
    return 1


def _edge(b: float, *, gain: float, gradient: float, buffer: float) -> float:
    """2(1 + b)/(A(1 + b) + B·G): see the module's table."""
    return 2.0 * (1.0 + b) / (gradient * (1.0 + b) + buffer * gain)


def _nadam_mu(group: Mapping[str, Any], i: int) -> float:
    """The momentum that NAdam's step number i counts with."""
    return _nadam_momentum(float(group["betas"][0]), float(group["momentum_decay"]), i)


def _nadam_momentum(beta: float, decay: float, i: int) -> float:
    return beta * (1.0 - 0.5 * 0.96 ** (i * decay))


def _nadam_edge(group: Mapping[str, Any], t: int) -> float:
    """NAdam's edge at step t."""
    b, now, then = float(group["betas"][0]), _nadam_mu(group, t), _nadam_mu(group, t + 1)
    product = _nadam_product(b, float(group["momentum_decay"]), t)
    gradient, buffer = (1.0 - now) / (1.0 - product), then / (1.0 - product * then)
    return _edge(b, gain=1.0 - b, gradient=gradient, buffer=buffer)


@lru_cache(maxsize=64)
def _nadam_product(beta: float, decay: float, t: int) -> float:
    """The product of the first t momenta, as far as 1 - product is not 1 to rounding."""
    product = 1.0
    for i in range(1, t + 1):
        product *= _nadam_momentum(beta, decay, i)
        if product < 2.0**-60:
            break
    return product


def resolve_signal(signal: str, optimizer: Optimizer) -> str:
    """What "auto" is for this optimizer; any other signal is itself."""
    if signal != "auto":
        return signal
    family = optimizer_family(optimizer)
    if family in PRECONDITIONED:
        return "preconditioned_sharpness"
    return "sharpness" if family == "sgd" else "trust_ratio"


def choose_signal(
    signal: str, optimizer: Optimizer, say: Callable[[int, EventLevel, str, str], None]
) -> str:
    """Resolve "auto" by the optimizer, and say what was chosen.

    Args:
        signal: Of the settings.
        optimizer: Any torch optimizer.
        say: Takes step, level, code and message of an event.
    """
    name, unknown = type(optimizer).__name__, optimizer_family(optimizer) == UNKNOWN
    found = resolve_signal(signal, optimizer)
    if signal == "auto":
        why = ", whose edge no formula gives: its own steps are watched" if unknown else ""
        say(0, "info", "SIGNAL", f"signal {found} for {name}{why}")
    elif unknown and found not in ("kappa", "trust_ratio"):
        text = f"no linear edge is known for {name}, which uses gradient descent's c = 2"
        say(0, "warning", "THRESHOLD_UNKNOWN", text)
    return found
