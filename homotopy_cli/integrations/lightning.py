"""HomotopyCallback for a Lightning Trainer.

    trainer = Trainer(callbacks=[HomotopyCallback()])

Of the package `lightning` as of `pytorch_lightning`: the callback is one of each that is imported
already, else of the first that is installed.

The loss is the module's own `training_step`, run again on a slice of the batch with its logging
silenced. The module's LR scheduler stays; the ceiling lowers its rate where curvature says so.
"""

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from homotopy_cli.errors import ProblemError
from homotopy_cli.integrations.ceiling import LOGGED, BorrowedCeiling
from homotopy_cli.problems.criteria import Loss
from homotopy_cli.problems.nest import n_rows

PACKAGES = ("lightning.pytorch", "pytorch_lightning")  # one Trainer each, and they do not mix


def callback_classes() -> tuple[type, ...]:
    """The Callback of every imported package, so that each one's Trainer takes it.

    Raises:
        ImportError: Neither is installed.
    """
    found = [sys.modules[name] for name in PACKAGES if name in sys.modules]
    for name in PACKAGES:
        if not found:
            try:
                found = [import_module(name)]
            except ModuleNotFoundError as error:
                if (error.name or "").split(".")[0] != name.split(".")[0]:
                    raise
    if not found:
        raise ImportError("HomotopyCallback needs lightning: pip install 'homotopy-cli[lightning]'")
    return tuple(dict.fromkeys(module.Callback for module in found))


class HomotopyCallback(*callback_classes()):  # type: ignore[misc]
    """A curvature ceiling on the learning rate of a LightningModule with one optimizer.

    Under automatic optimization and a precision without a GradScaler. Its state travels in
    Lightning's checkpoints.

    Args:
        settings: Keywords of GuardSettings: target, signal, budget, estimation_freq, ...

    Attributes:
        ceiling: The BorrowedCeiling while training, with `last`, `history` and `factor`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.ceiling: BorrowedCeiling | None = None
        self._batch: Any = None
        self._index = 0
        self._restored: dict[str, Any] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find the optimizer and stand ready."""
        n = len(trainer.optimizers)
        if not pl_module.automatic_optimization or n != 1:
            how = "" if pl_module.automatic_optimization else " with manual optimization"
            raise ProblemError(
                f"HomotopyCallback needs automatic optimization of one optimizer, got {n}{how}",
                hint="one HomotopyLR per optimizer, update_curvature(batch=batch) before its step",
            )
        steps = trainer.estimated_stepping_batches
        known = isinstance(steps, int) and steps > 0
        settings = ({"total_steps": steps} if known else {}) | self.settings
        loss = Loss("training_step", self._loss, n_rows)
        self.ceiling = BorrowedCeiling(trainer.optimizers[0], pl_module, loss, **settings)
        if self._restored is not None:
            self.ceiling.load_state_dict(self._restored)
            self._restored = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, index: int) -> None:
        """Remember the batch."""
        self._batch, self._index = batch, index

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Probe if due and lower the rates of the step that follows."""
        if self.ceiling is None:
            return
        self.ceiling.before_step(self._batch, clip_coef=_clip_coef(trainer, pl_module))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        """Log the newest probe, and its step, as homotopy/NAME."""
        if self.ceiling is None:
            return
        for name in LOGGED:
            if name in self.ceiling.last:
                pl_module.log(f"homotopy/{name}", float(self.ceiling.last[name]))
        if self.ceiling.last:
            pl_module.log("homotopy/probe_step", float(self.ceiling.guard.last_step))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Take the hook off; `ceiling` keeps its history."""
        if self.ceiling is not None:
            self.ceiling.close()
        self._batch = None

    def state_dict(self) -> dict[str, Any]:
        """Lightning saves this with every checkpoint."""
        return {} if self.ceiling is None else self.ceiling.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Taken up when training starts."""
        self._restored = state_dict or None

    def _loss(self, model: Any, batch: Any) -> torch.Tensor:
        with _silent(model):
            wants = inspect.signature(model.training_step).parameters
            result = model.training_step(batch, *([self._index] if len(wants) > 1 else []))
        loss = result.get("loss") if isinstance(result, Mapping) else result
        if not isinstance(loss, torch.Tensor):
            raise ProblemError(
                f"training_step returned {type(result).__name__}, not a loss",
                hint='return the loss tensor, or a dict with "loss"',
            )
        return loss


def _clip_coef(trainer: Any, module: Any) -> float:
    """What Lightning is about to scale the gradient with: it clips after this hook."""
    limit = trainer.gradient_clip_val
    if not limit or str(trainer.gradient_clip_algorithm or "norm").lower().endswith("value"):
        return 1.0
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(grads)) if grads else 0.0
    return min(1.0, limit / norm) if norm else 1.0  # 0 where the norm is inf


@contextmanager
def _silent(model: Any) -> Iterator[None]:
    """Let `self.log` in training_step do nothing: a probe is no training step."""
    names = ("log", "log_dict")
    for name in names:
        model.__dict__[name] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        for name in names:
            del model.__dict__[name]
