"""One optimizer step, the only place that calls backward() and optimizer.step()."""

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from homotopy_cli.records import ProbeRecord
from homotopy_cli.training.build import Run
from homotopy_cli.training.clipping import clip


@dataclass
class StepOutcome:
    """What step k did; `values` are its row's columns. `fault` is a reason to stop."""

    values: dict[str, float] = field(default_factory=dict)
    probe: ProbeRecord | None = None
    fault: str = ""  # "" or e.g. "loss is nan"; the weights are then as before this step


def optimizer_step(run: Run, step: int) -> StepOutcome:
    """Train on batch `step`; on a non-finite loss or gradient leave the weights alone.

    The learning rate in the row is the one used for this step, after any ceiling that the
    probe of this very step imposed.
    """
    began = time.perf_counter()
    out = StepOutcome()
    batch = run.batch(step)
    run.optimizer.zero_grad(set_to_none=True)
    loss = run.loss.function(run.model, batch)
    value = float(loss.detach())
    out.values["loss"] = value
    if not math.isfinite(value):
        return _stopped(run, out, began, f"loss is {value}")
    loss.backward()
    norm = gradient_norm(run.params)
    out.values["grad_norm"] = norm
    if not math.isfinite(norm):
        return _stopped(run, out, began, f"gradient norm is {norm}")

    coefficient = clip(run.recipe.clip, run.params, norm, run.kappa)

    probing = time.perf_counter()
    out.probe = run.probe.after_backward(
        batch,
        step=step,
        loss=value,
        grad_norm=norm,
        layers=lambda: layer_values(run, coefficient),
    )
    probe_seconds = time.perf_counter() - probing
    if out.probe is not None:
        run.kappa = out.probe.values.get("kappa", run.kappa)

    lr = used_lr(run.optimizer)
    reading = run.probe.reading(lr)
    run.snapshot()
    run.optimizer.step()
    out.values |= {
        "lr": lr,
        "clip_coef": coefficient,
        "update_norm": run.distance(),
        "probe_seconds_step": probe_seconds,
        **reading,
    }
    run.scheduler.step()
    out.values["step_seconds"] = time.perf_counter() - began
    return out


def gradient_norm(params: list[Tensor]) -> float:
    """‖g‖ over all parameters, accumulated in float64 across tensors; 0 when none has one.

    float32 overflows inside a tensor's own norm for entries above 1.8e19: then, and only then,
    the norm is taken again in float64, so that "inf" means an infinite or NaN gradient.
    """
    grads = [p.grad for p in params if p.grad is not None]
    if not grads:
        return 0.0
    norms = torch.stack([n.double() for n in torch._foreach_norm(grads)])
    total = float(torch.linalg.vector_norm(norms))
    if math.isfinite(total):
        return total
    wide = torch.stack([torch.linalg.vector_norm(g, dtype=torch.float64) for g in grads])
    return float(torch.linalg.vector_norm(wide))


def used_lr(optimizer: torch.optim.Optimizer) -> float:
    """The first group's learning rate, tensor or float."""
    return float(optimizer.param_groups[0]["lr"])


def _stopped(run: Run, out: StepOutcome, began: float, fault: str) -> StepOutcome:
    run.optimizer.zero_grad(set_to_none=True)
    out.fault = fault
    out.values["lr"] = used_lr(run.optimizer)
    out.values["step_seconds"] = time.perf_counter() - began
    return out


def layer_values(run: Run, clipped: float) -> dict[str, list[float]]:
    """layer_grad_norm (before clipping) and layer_lr of every block: no extra pass."""
    lr_of = {
        id(p): float(group["lr"]) for group in run.optimizer.param_groups for p in group["params"]
    }
    norms, rates = [], []
    for block in run.layers:
        members = [run.named[name] for name in block.params]
        norms.append(gradient_norm(members) / clipped)
        rates.append(lr_of.get(id(members[0]), math.nan))
    return {"layer_grad_norm": norms, "layer_lr": rates}
