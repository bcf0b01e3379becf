"""CurvatureAdaptiveLR: one line in an existing loop, `scheduler.step(loss)` after backward()."""

import math
import warnings
import weakref
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from homotopy_cli.curvature.families import UNKNOWN, optimizer_family
from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.criteria import Loss, resolve_loss
from homotopy_cli.problems.nest import Batch, n_rows
from homotopy_cli.schedulers.groups import unwrapped
from homotopy_cli.schedulers.homotopy import HomotopyLR
from homotopy_cli.schedulers.settings import within

# Of an optimizer whose edge nothing gives, the steps tell more than any curvature: signal auto.
MODES: dict[str, dict[str, Any]] = {
    "guard": {"signal": "directional", "target": 1.0},
    "auto-warmup": {"signal": "auto", "target": 0.25},
    "auto": {"mode": "auto"},
}
_CAPTURED = {"args", "kwargs", "targets"}
SAME = 1e-5  # relative difference of two losses that are one; our choice


class CurvatureAdaptiveLR(HomotopyLR):
    """HomotopyLR that captures the batch by itself.

        loss = model(batch)            # or criterion(model(x), y) with criterion an nn.Module
        loss.backward()
        scheduler.step(loss)           # probes when due; this step uses the new rate
        optimizer.step()

    A forward pre-hook on the model (and on an nn.Module loss_fn) remembers the arguments of the
    last call in training mode; a probe runs the forward pass again on a slice of them, and it is
    said where step(loss) was given another loss than that call's or a whole fraction of it. The
    remembered batch stays alive until the next call. `close()` takes the hooks off.
    `update_curvature` works as in HomotopyLR.

    Args:
        optimizer: See CurvatureScheduler.
        model: Returns the loss, an object with `.loss`, a dict with "loss", or, with loss_fn,
            outputs.
        loss_fn: An nn.Module criterion(outputs, targets) called in the loop, or any callable
            of (outputs, targets) with step(loss, targets=...). None: the model gives the loss.
            A problems.criteria.Loss, or its name, with update_curvature(batch=...).
        adaptation_rate: How fast the average follows, per step: 1 - smoothing.
        mode: "guard" leaves warmup to the inner schedule and reacts to real crossings only
            (directional signal, target 1); "auto-warmup" replaces it (target 0.25); "auto" is
            HomotopyLR's: no learning rate needed. None keeps its defaults. Keywords given win.
        settings: Keywords of HomotopyLR.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        loss_fn: Any = None,
        *,
        adaptation_rate: float = 0.1,
        mode: str | None = None,
        **settings: Any,
    ) -> None:
        within("adaptation_rate", adaptation_rate, "(0, 1]")
        if mode is not None and mode not in MODES:
            raise ValueError(f"mode is {mode!r}: one of {', '.join(MODES)}, or None")
        own = dict(MODES.get(mode or "", {}))
        if optimizer_family(unwrapped(optimizer)) == UNKNOWN:
            own = {key: own[key] for key in own if key not in ("signal", "target")}
        settings = {"smoothing": 1.0 - adaptation_rate} | own | settings
        self._criterion = resolve_loss(loss_fn) if isinstance(loss_fn, str) else loss_fn
        self._calls = {"model": _Capture()}
        self._handles = self._calls["model"].on(model)
        if isinstance(loss_fn, nn.Module):
            self._calls["loss"] = _Capture()
            self._handles += self._calls["loss"].on(loss_fn)
        self._compared = True  # the loss of step(loss) with that of the captured call
        for handle in self._handles:
            weakref.finalize(self, handle.remove)
        super().__init__(optimizer, model, Loss("captured", self._loss, self._count), **settings)

    def step(self, loss: Any = None, *, targets: Any = None) -> None:  # type: ignore[override]
        """With the loss: probe if due, before optimizer.step(). Without: as any scheduler.

        Args:
            loss: What backward() was called on; watched by the free alarm.
            targets: Of the batch, where loss_fn is a function and not a module.
        """
        if loss is None:
            super().step()
            return
        value = float(loss.detach()) if isinstance(loss, Tensor) else float(loss)
        batch = self._captured(targets)
        self._compare(value)
        self._step_and_probe(batch=batch, loss=value)

    def close(self) -> None:
        """Take the hooks off and forget the batch."""
        for handle in self._handles:
            handle.remove()
        for call in self._calls.values():
            call.clear()

    def _captured(self, targets: Any) -> Batch:
        """The last training call of the model, and of the criterion, as one nest."""
        call = self._calls["model"]
        if call.args is None:
            raise ProblemError(
                "step(loss) found no forward pass of the model in training mode",
                hint="call model(batch) in train() mode before scheduler.step(loss)",
            )
        batch = {"args": call.args, "kwargs": call.kwargs}
        if self._criterion is None:
            return batch
        if isinstance(self._criterion, Loss):
            raise ProblemError(
                f"step(loss) cannot see the batch of loss {self._criterion.name}",
                hint="scheduler.update_curvature(batch=batch), then scheduler.step()",
            )
        if targets is None and "loss" in self._calls:
            seen = self._calls["loss"]
            targets = seen.args[1] if seen.args and len(seen.args) > 1 else None
        if targets is None:
            raise ProblemError(
                "step(loss) does not know the targets: loss_fn was not called as a module",
                hint="scheduler.step(loss, targets=y), or call an nn.Module criterion(outputs, y)",
            )
        return batch | {"targets": targets}

    def _compare(self, given: float) -> None:
        """Say once that step() was given another loss than that of the call that is measured."""
        from_model = self._calls["model"] if self._criterion is None else None
        call = self._calls.get("loss", from_model)
        if not self._compared or call is None or call.loss is None:
            return
        seen = float(call.loss)
        if not math.isfinite(seen) or not math.isfinite(given) or _is_part(given, seen):
            return
        self._compared = False
        what = "the model" if from_model is not None else type(self._criterion).__name__
        text = (
            f"step(loss) was given a loss of {given:.4g}, and the last call of {what} gave "
            f"{seen:.4g}: the curvature of that call alone is measured; for all of the loss use "
            "HomotopyLR and update_curvature(batch=batch)"
        )
        self._guard.events.add(self._guard.n_steps, "warning", "OTHER_LOSS", text)
        warnings.warn(text, UserWarning, stacklevel=3)

    def _loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a captured call or a given batch, run again; the hooks look away."""
        criterion = self._criterion
        for call in self._calls.values():
            call.paused = True
        try:
            if isinstance(criterion, Loss):
                return criterion.function(model, batch)
            if not _is_captured(batch):
                pair = batch if criterion is not None else (batch, None)
                batch = {"args": (pair[0],), "kwargs": {}, "targets": pair[1]}
            result = model(*batch["args"], **batch["kwargs"])
            return _found(result) if criterion is None else criterion(result, batch["targets"])
        finally:
            for call in self._calls.values():
                call.paused = False

    def _count(self, batch: Batch) -> int:
        return self._criterion.count(batch) if isinstance(self._criterion, Loss) else n_rows(batch)


class _Capture:
    """Forward hooks that remember the last call in training mode; pickles empty."""

    loss: Tensor | None
    args: tuple | None
    kwargs: dict

    def __init__(self) -> None:
        self.paused = False
        self.clear()

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if module.training and not self.paused:
            self.args, self.kwargs = args, kwargs

    def on(self, module: nn.Module) -> list[RemovableHandle]:
        """Watch a module's calls."""
        before = module.register_forward_pre_hook(self, with_kwargs=True)
        return [before, module.register_forward_hook(self.result)]

    def result(self, module: nn.Module, args: tuple, output: Any) -> None:
        """Remember a loss that the call returned, without its graph."""
        if module.training and not self.paused:
            found = _loss_in(output)
            known = isinstance(found, Tensor) and found.numel() == 1
            self.loss = found.detach() if known else None

    def clear(self) -> None:
        """Forget the last call."""
        self.loss, self.args, self.kwargs = None, None, {}

    def __getstate__(self) -> dict[str, Any]:
        return {"paused": False, "args": None, "kwargs": {}, "loss": None}


def _is_captured(batch: Batch) -> bool:
    return isinstance(batch, dict) and {"args", "kwargs"} <= set(batch) <= _CAPTURED


def _found(result: Any) -> Tensor:
    """The loss in what a model returned."""
    found = _loss_in(result)
    if not isinstance(found, Tensor) or found.numel() != 1:
        raise ProblemError(
            f"the model returns {type(result).__name__}, not a loss",
            hint="give loss_fn=, or use HomotopyLR and update_curvature(inputs, targets)",
        )
    return found


def _loss_in(result: Any) -> Any:
    """A tensor itself, or what a model's result calls its loss."""
    if isinstance(result, Tensor):
        return result
    found = result.get("loss") if isinstance(result, Mapping) else None
    return getattr(result, "loss", None) if found is None else found


def _is_part(given: float, whole: float) -> bool:
    """Whether `given` is whole/n for a whole number n, as where the gradients of n batches add."""
    n = max(1, round(whole / given)) if given else 1
    return math.isclose(n * given, whole, rel_tol=SAME, abs_tol=1e-12)
