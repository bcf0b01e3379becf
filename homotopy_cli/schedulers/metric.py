"""The metric in which one edge holds for all parameter groups at once."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from homotopy_cli.curvature.backward import dense
from homotopy_cli.curvature.families import PRECONDITIONED
from homotopy_cli.curvature.precondition import preconditioner
from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.sharded import full
from homotopy_cli.schedulers.settings import ALONG_STEP


class GuardMetric:
    """Which curvature steers, in which metric.

    Args:
        optimizer: Its state and `.grad` give P.
        signal: Resolved: not "auto".
        family: Of the optimizer: see curvature.families.
    """

    def __init__(self, optimizer: Optimizer, signal: str, family: str) -> None:
        self.optimizer, self.signal, self.family = optimizer, signal, family
        self.counts_gradient = True  # False: P is that of the optimizer's state alone

    @property
    def adaptive(self) -> bool:
        """Whether λ is measured in the metric of the optimizer's own second moments."""
        known = self.family in PRECONDITIONED
        return self.signal == "preconditioned_sharpness" or (self.signal in ALONG_STEP and known)

    def at(self, rates: Sequence[float]) -> Callable[[list[Tensor]], Tensor | None]:
        """Live parameters -> P for these group rates: see group_metric."""
        return lambda params: group_metric(
            self.optimizer,
            params,
            rates,
            adaptive=self.adaptive,
            always=self.signal in ALONG_STEP,
            include_gradient=self.counts_gradient,
        )

    def excess_over_state(self) -> float:
        """‖.grad‖ over that of the gradients in the optimizer's state; ∞ where it has none yet."""
        held = [p for g in self.optimizer.param_groups for p in g["params"] if p.grad is not None]
        try:
            known = preconditioner(self.optimizer, held, include_gradient=False)
        except ProblemError:
            return math.inf
        size = float(torch.linalg.vector_norm(known[known.isfinite()].float()))
        lengths = [torch.linalg.vector_norm(dense(full(p.grad)).float()) for p in held]
        return float(torch.stack(lengths).norm()) / size if size > 0.0 else math.inf

    def column(self, rates: Sequence[float]) -> str:
        """Which column of the log steers."""
        if self.signal in ALONG_STEP:
            return "directional_sharpness"
        scaled = self.adaptive and self.family != "sgd"
        return "preconditioned_sharpness" if scaled or differ(rates) else "lambda_max"


def differ(rates: Sequence[float]) -> bool:
    """Whether the groups' learning rates differ (and are not all 0)."""
    return len(rates) > 1 and max(rates) > 0.0 and min(rates) != max(rates)


def group_metric(
    optimizer: Optimizer,
    params: Sequence[Tensor],
    rates: Sequence[float],
    *,
    adaptive: bool,
    always: bool = False,
    include_gradient: bool = True,
) -> Tensor | None:
    """The diagonal P, shape (n,), with update = -η·P⁻¹g for η the largest rate; None for I.

    A group with a smaller rate moves as if its metric were steeper: P_g · η/η_g. With that one
    λ_max(P⁻¹H) and one η give the edge of the whole, where λ_max and the largest rate alone
    would only bound it. Parameters the optimizer does not hold, or at rate 0, have P = ∞.

    Args:
        optimizer: Its state gives P where `adaptive`.
        params: Live parameters, in the order of the flat vector.
        rates: Scheduled rate of every group.
        adaptive: Take the optimizer's own second moments; False is P = I before the rates.
        always: Return ones rather than None for I.
        include_gradient: See curvature.precondition.preconditioner.
    """
    p = None
    if adaptive:
        p = preconditioner(optimizer, params, include_gradient=include_gradient)
    held = {id(q): rate for group, rate in _pairs(optimizer, rates) for q in group["params"]}
    if not differ(rates) and all(id(q) in held for q in params):
        if p is None and always:
            return torch.cat([_filled(q, 1.0) for q in params])
        return p
    top = max(rates)
    weights = torch.cat([_filled(q, rate_weight(top, held.get(id(q), 0.0))) for q in params])
    return weights if p is None else p * weights


def _filled(parameter: Tensor, value: float) -> Tensor:
    """One number for every entry of a parameter; of a sharded one, for all of its entries."""
    return torch.full((parameter.numel(),), value, dtype=parameter.dtype, device=parameter.device)


def _pairs(optimizer: Optimizer, rates: Sequence[float]) -> list[tuple[dict, float]]:
    return list(zip(optimizer.param_groups, rates, strict=True))


def rate_weight(top: float, rate: float) -> float:
    """What P is multiplied with in a group whose rate is not the largest, `top`."""
    if top <= 0.0:
        return 1.0
    return top / rate if rate > 0.0 else math.inf
