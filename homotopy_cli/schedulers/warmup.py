"""CurvatureWarmup: raise the rate while the edge ratio allows it, then hand over."""

from typing import Any

from torch import nn
from torch.optim import Optimizer

from homotopy_cli.schedulers import rules
from homotopy_cli.schedulers.homotopy import HomotopyLR
from homotopy_cli.schedulers.length import run_length
from homotopy_cli.schedulers.probing import LossLike

START = 0.01  # first rate over the target; our choice
CALM_PROBES = 3  # probes in a row below half the target before it hands over


class CurvatureWarmup(HomotopyLR):
    """The rate starts at a hundredth of its target and rises geometrically, gated by the edge.

    Each optimizer step multiplies the factor by 100^(1/warmup_steps) while the edge ratio is
    below `rise_below`, holds it between `rise_below` and `target`, and the ceiling cuts it
    above. Having reached 1, and after 3 probes in a row below target/2, it hands over: from
    then on the inner schedule decides alone and nothing is probed. Where the curvature never
    allows the target rate it keeps holding, and says nothing else.

    Args:
        optimizer, model, loss_fn: See CurvatureScheduler.
        target_lr: The rate to reach, of the largest group; None: the groups' own.
        warmup_steps: Optimizer steps of the fastest rise; None takes a tenth of total_steps,
            or 1000 where that is unknown.
        rise_below: Edge ratio below which the rate rises.
        settings: Keywords of HomotopyLR.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module | None = None,
        loss_fn: LossLike = None,
        target_lr: float | None = None,
        warmup_steps: int | None = None,
        *,
        rise_below: float = 0.25,
        **settings: Any,
    ) -> None:
        if target_lr is not None:
            settings["base_lr"] = target_lr
        total = settings.get("total_steps", 0) or run_length(settings.get("inner"))[0]
        steps = warmup_steps if warmup_steps is not None else total // 10 if total else 1000
        self.warmup_steps = max(1, steps)
        self.rise_below = rise_below
        settings.setdefault("warmup", 0.0)  # the gate is the rise, and a cut of it is no decay
        settings.setdefault("scale_decay", False)
        settings.setdefault("longest", 2 * settings.get("estimation_freq", 10))  # the rate moves
        self._wanted = settings.get("enabled", True)
        self.finished = not self._wanted
        self.factor = 1.0 if self.finished else START
        self._calm = 0
        super().__init__(optimizer, model, loss_fn, **settings)

    def step(self, inputs: Any = None, targets: Any = None) -> float:
        """Advance; with (inputs, targets) probe as well: one call a step, before optimizer.step().

        Returns:
            The rate of the largest group, which is set, not only returned.
        """
        if inputs is not None:
            self._step_and_probe(inputs, targets)
        else:
            super().step()
        return max(float(lr) for lr in self._last_lr)

    def _advance(self) -> None:
        """One optimizer step of the ramp."""
        ceiling = self._guard.ceiling
        if self.finished or not ceiling.measured or ceiling.edge.doubted:
            return
        top = max(self._scheduled(self.last_epoch), default=0.0)
        c = ceiling.threshold(self._guard.n_steps)
        ratio = rules.edge_ratio(top, ceiling.edge.curvature, c)
        self.factor = rules.warmup_factor(
            self.factor,
            growth=START ** (-1.0 / self.warmup_steps),
            ratio=ratio,
            rise_below=self.rise_below,
            cut_above=max(self.rise_below, ceiling.target),
        )

    def _scheduled(self, step: int) -> list[float]:
        return [rate * self.factor for rate in super()._scheduled(step)]

    def _has_warmup(self) -> bool:
        return True

    def _after_probe(self, batch: Any, *, paired: bool) -> None:
        low = self.last_probe["edge_ratio"] < 0.5 * self._guard.ceiling.target
        self._calm = self._calm + 1 if low and self.factor >= 1.0 else 0
        if self._calm >= CALM_PROBES:
            self.finished, self.enabled = True, False
            text = "the schedule decides alone from here; nothing is probed any more"
            self._guard.events.add(self._guard.n_steps, "info", "WARMUP_DONE", text)

    def state_dict(self) -> dict[str, Any]:
        """HomotopyLR's, and the ramp."""
        ramp = {"factor": self.factor, "finished": self.finished, "calm": self._calm}
        return super().state_dict() | {"warmup": ramp}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue bitwise."""
        super().load_state_dict(state_dict)
        ramp = state_dict["warmup"]
        self.factor, self.finished, self._calm = ramp["factor"], ramp["finished"], ramp["calm"]
        self.enabled = self._wanted and not self.finished
