"""AdaptiveHomotopyLR: the target is learned from the run's own history."""

import math
from collections import deque
from typing import Any

from torch import nn
from torch.optim import Optimizer

from homotopy_cli.problems.nest import Batch
from homotopy_cli.schedulers import rules
from homotopy_cli.schedulers.ceiling import RISE, SCALED
from homotopy_cli.schedulers.homotopy import HomotopyLR
from homotopy_cli.schedulers.length import run_length
from homotopy_cli.schedulers.probing import LossLike
from homotopy_cli.schedulers.settings import within

WINDOW = 256  # probes remembered
LEAST = 8  # probes needed before a target is learned
MARGIN = 2.0  # target over the percentile: at 1 the noise of a healthy run would trip it


class AdaptiveHomotopyLR(HomotopyLR):
    """HomotopyLR whose target follows what this run's curvature usually is.

    The learned quantity is the edge ratio in use (signal "kappa": κ). After a linear warmup,
    and once LEAST probes are known, the target becomes MARGIN times the `percentile` of the
    history in log space, moving by at most `adaptation_rate` per probe; outliers are not
    learned from, since a spike that raised its own target would excuse itself. For edge
    signals the target stays within [0.05, 1]: history cannot move the edge itself.

    Args:
        optimizer, model, loss_fn: See CurvatureScheduler.
        warmup_steps: Length of the linear warmup, from 1/warmup_steps; None takes a tenth of
            total_steps, or 1000 where that is unknown; 0 for none (an inner schedule has one).
        adaptation_rate: Largest |Δlog target| per probe.
        percentile: Of the history, 0..100.
        settings: Keywords of HomotopyLR; `target` is where learning starts.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module | None = None,
        loss_fn: LossLike = None,
        *,
        warmup_steps: int | None = None,
        adaptation_rate: float = 0.01,
        percentile: float = 75.0,
        **settings: Any,
    ) -> None:
        within("adaptation_rate", adaptation_rate, "(0, 1)")
        within("percentile", percentile, "[0, 100]")
        total = settings.get("total_steps", 0) or run_length(settings.get("inner"))[0]
        self.warmup_steps = (
            warmup_steps if warmup_steps is not None else total // 10 if total else 1000
        )
        self.adaptation_rate = adaptation_rate
        self.percentile = percentile
        self._seen: deque[float] = deque(maxlen=WINDOW)
        self._learned = False
        super().__init__(optimizer, model, loss_fn, **settings)

    @property
    def curvature_target(self) -> float:
        """The present target: an edge ratio, or κ in 1/loss where the signal is "kappa"."""
        ceiling = self._guard.ceiling
        return ceiling.kappa_target if self.signal == "kappa" else ceiling.target

    def _scheduled(self, step: int) -> list[float]:
        plain = super()._scheduled(step)
        if step >= self.warmup_steps:
            return plain
        return [rate * (step + 1) / self.warmup_steps for rate in plain]

    def _has_warmup(self) -> bool:
        return self.warmup_steps > 1 or super()._has_warmup()

    def _after_probe(self, batch: Batch, *, paired: bool) -> None:
        by_kappa = self.signal == "kappa"
        value = self.last_probe.get("kappa" if by_kappa else "edge_ratio", math.nan)
        held = self.lr_reason in (RISE, SCALED)  # the ratio is then not the edge's doing
        if held or not (0.0 < value < math.inf) or rules.is_outlier(value, self._seen):
            return
        self._seen.append(value)
        if self.last_epoch < self.warmup_steps or len(self._seen) < LEAST:
            return
        wanted = MARGIN * rules.log_percentile(list(self._seen), self.percentile)
        ceiling = self._guard.ceiling
        if by_kappa:
            first = wanted if not self._learned else ceiling.kappa_target
            ceiling.kappa_target = rules.learned_target(first, wanted, self.adaptation_rate)
        else:
            wanted = min(1.0, max(0.05, wanted))
            ceiling.target = rules.learned_target(ceiling.target, wanted, self.adaptation_rate)
        self._learned = True

    def state_dict(self) -> dict[str, Any]:
        """HomotopyLR's, and what was learned."""
        learned = {"seen": list(self._seen), "learned": self._learned}
        return super().state_dict() | {"adaptive": learned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue bitwise."""
        super().load_state_dict(state_dict)
        self._seen.clear()
        self._seen.extend(state_dict["adaptive"]["seen"])
        self._learned = state_dict["adaptive"]["learned"]
