"""Early signs of instability that a step shows by itself: no further pass over the data.

    update_rms           max over tensors of sqrt(mean(g²/v̂)); loss spikes came 1 to 8 steps after
                         it passed 2.3 (Wortsman et al. 2023, arXiv:2304.13013)
    second_moment_ratio  max over tensors of mean g² / mean v̂; large where Adam's memory lags
    logit_max            largest |score| of the training forward pass, for the losses over classes
    noise_scale          tr Σ/‖G‖² from the first part of an accumulated batch and the whole

v̂ is Adam's bias-corrected second moment that the step used; tensors of few entries are left out,
since their ratio is mostly noise. The first needs a pass over the parameters and a copy of them,
which the copy that update_norm keeps lends; the second reads gradients and moments once.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from homotopy_cli.training.forward import Forward

SMALL = 256  # entries; our choice: smaller tensors passed 2.3 in healthy runs all the time


class Signs:
    """Reads them after the optimizer's step, while the gradients are still there."""

    def __init__(self, optimizer: Optimizer, params: Sequence[Tensor], forward: Forward) -> None:
        whole = not any(hasattr(p, "device_mesh") for p in params)  # FSDP: only a part is here
        places = [(i, p) for i, p in enumerate(params) if p.numel() >= SMALL]
        self._watched = (places or list(enumerate(params))) if whole else []
        self._optimizer, self._forward = optimizer, forward
        self.noise = NoiseScale()

    def read(self, step: int, grad_norm: float, spare: Sequence[Tensor] | None) -> dict[str, float]:
        """Columns of the row, in one transfer from the device; what is not known is absent.

        Args:
            step: 0-based; the step just made.
            grad_norm: ‖g‖ over the whole batch, before clipping.
            spare: Tensors of the parameters' shapes, in their order, to be overwritten; without
                them update_rms is left out.
        """
        with torch.no_grad():
            found = self._moments(step, spare)
        if self._forward.logits:
            found["logit_max"] = torch.stack(self._forward.logits).max()
        first = self._forward.first
        if first is not None:
            found["first"] = first.norm
        if not found:
            return {}
        numbers = torch.stack([value.double() for value in found.values()]).tolist()
        values = dict(zip(found, numbers, strict=True))
        if first is not None:
            self.noise.update(values.pop("first"), grad_norm, first.rows, first.of)
            if (scale := self.noise.value) is not None:
                values["noise_scale"] = scale
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def _moments(self, step: int, spare: Sequence[Tensor] | None) -> dict[str, Tensor]:
        """update_rms and second_moment_ratio, 0-d, where the optimizer has second moments."""
        settings = {id(p): group for group in self._optimizer.param_groups for p in group["params"]}
        grads, moments, scales, floors, places = [], [], [], [], []
        for place, p in self._watched:
            moment = self._optimizer.state.get(p, {}).get("exp_avg_sq")
            group = settings.get(id(p), {})
            if p.grad is None or moment is None or "betas" not in group:
                continue
            if moment.shape != p.shape:  # factored or rotated: another optimizer's meaning
                continue
            scale = 1.0 - float(group["betas"][1]) ** (step + 1)  # v̂ = v/scale
            grads.append(p.grad)
            moments.append(moment)
            scales.append(scale)
            floors.append(scale * float(group.get("eps", 0.0)) ** 2 or 1e-30)
            places.append(place)
        if not grads:
            return {}
        lengths = torch._foreach_norm(grads)
        torch._foreach_mul_(lengths, [math.sqrt(scale) for scale in scales])
        sums = torch.stack(torch._foreach_norm(moments, 1)).double()
        known = sums > 0
        ratio = torch.stack(lengths).double().square() / sums
        found = {"second_moment_ratio": torch.where(known, ratio, 0.0).max()}
        if spare is not None:
            scaled = [spare[place] for place in places]  # g/sqrt(max(v, eps²))
            torch._foreach_copy_(scaled, moments)
            torch._foreach_clamp_min_(scaled, floors)
            torch._foreach_sqrt_(scaled)
            torch._foreach_reciprocal_(scaled)
            torch._foreach_mul_(scaled, grads)
            norms = torch._foreach_norm(scaled)
            counts = [g.numel() for g in grads]
            torch._foreach_mul_(
                norms, [math.sqrt(s / n) for s, n in zip(scales, counts, strict=True)]
            )
            found["update_rms"] = torch.where(known, torch.stack(norms), 0.0).max()
        return found


class NoiseScale:
    """B_simple = tr Σ/‖G‖², examples: the batch size at which noise equals signal.

    From the gradient norms of a small and a large batch of each step, both unbiased, averaged
    over steps before the division (McCandlish et al. 2018, arXiv:1812.06162, appendix A.1). An
    order of magnitude, biased low where the first part's examples resemble each other.
    """

    KEEP = 0.99  # share of the average that a step keeps; our choice

    def __init__(self) -> None:
        self.noise = self.signal = 0.0

    def update(self, small: float, large: float, rows: int, of: int) -> None:
        """Take in ‖g‖ over the first `rows` examples and over all `of`, which hold them."""
        if not rows < of or not math.isfinite(small * small + large * large):
            return
        signal = (of * large**2 - rows * small**2) / (of - rows)
        noise = (small**2 - large**2) / (1 / rows - 1 / of)
        self.noise = self.KEEP * self.noise + (1 - self.KEEP) * noise
        self.signal = self.KEEP * self.signal + (1 - self.KEEP) * signal

    @property
    def value(self) -> float | None:
        """The ratio of the averages; None while one of them is not positive."""
        return self.noise / self.signal if self.noise > 0 and self.signal > 0 else None

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"noise": self.noise, "signal": self.signal}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.noise, self.signal = state["noise"], state["signal"]
