"""One optimizer step, from its batch to its row of the log."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from homotopy_cli.records import ProbeRecord
from homotopy_cli.schedulers.groups import rates
from homotopy_cli.training.build import Run
from homotopy_cli.training.clipping import clip
from homotopy_cli.training.probing import Gradient


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
    loss = run.ranks.backward(
        run.forward, batch, accumulate=run.recipe.accumulate, weight=run.weight
    )
    value, norm = run.ranks.joined(*loss_and_norm(loss, run.grads()), run.weight)
    out.values["loss"] = value
    if not math.isfinite(value):
        return _stopped(run, out, began, f"loss is {value}")
    out.values["grad_norm"] = norm
    if not math.isfinite(norm):
        return _stopped(run, out, began, f"gradient norm is {norm}")

    coefficient = clip(run.recipe.clip, run.params, norm, run.kappa, shards=run.ranks.sharded)

    probing = time.perf_counter()
    out.probe = run.probe.after_backward(
        Gradient(
            batch,
            step=step,
            loss=value,
            norm=norm,
            clip_coef=coefficient,
            layers=lambda: layer_values(run, coefficient),
        )
    )
    probe_seconds = time.perf_counter() - probing
    if out.probe is not None:
        run.kappa = out.probe.values.get("kappa", run.kappa)

    lr = used_lr(run.optimizer)
    reading = run.probe.reading(lr)
    run.snapshot()
    run.ranks.step(run.optimizer)
    out.values |= {
        "lr": lr,
        "clip_coef": coefficient,
        "update_norm": run.distance(),
        "probe_seconds_step": probe_seconds,
        **reading,
    }
    out.values |= run.ranks.largest(run.signs.read(step, norm, run.spare), "logit_max")
    run.scheduler.step()
    out.values["step_seconds"] = time.perf_counter() - began
    return out


def loss_and_norm(loss: Tensor, grads: Sequence[Tensor]) -> tuple[float, float]:
    """(loss, ‖g‖) after the backward pass, in one transfer from the device.

    ‖g‖ is over all of `grads`, accumulated in float64 across tensors; 0 when there is none.
    float32 overflows inside a tensor's own norm for entries above 1.8e19: then, and
    only then, the norm is taken again in float64, so that "inf" means an infinite or NaN
    gradient.
    """
    if not grads:
        return float(loss), 0.0
    norm = norm_of(torch._foreach_norm(grads))
    value, total = torch.stack([loss.to(norm).reshape(()), norm]).tolist()
    return value, total if math.isfinite(total) else _wide_norm(grads)


def norm_of(norms: Sequence[Tensor]) -> Tensor:
    """The norm of vectors whose norms these are, accumulated in float64; as a 0-d tensor."""
    return torch.linalg.vector_norm(torch.stack([n.double() for n in norms]))


def _wide_norm(grads: Sequence[Tensor]) -> float:
    """‖g‖ in float64 throughout."""
    return float(norm_of([torch.linalg.vector_norm(g, dtype=torch.float64) for g in grads]))


def used_lr(optimizer: torch.optim.Optimizer) -> float:
    """The largest learning rate of a group: the one that edge and ceiling are about."""
    return max(rates(optimizer))


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
    blocks = [[run.named[name] for name in block.params] for block in run.layers]
    grads = [run.grads(members) for members in blocks]
    found = [norm_of(torch._foreach_norm(block)) for block in grads if block]
    known = iter(torch.stack(found).tolist() if found else ())  # one transfer for all layers
    norms = [next(known) if block else 0.0 for block in grads]
    own = [
        norm if math.isfinite(norm) else _wide_norm(block)
        for norm, block in zip(norms, grads, strict=True)
    ]
    values = [norm / clipped for norm in run.ranks.norms(own)]
    rates = [lr_of.get(id(members[0]), math.nan) for members in blocks]
    return {"layer_grad_norm": values, "layer_lr": rates}
