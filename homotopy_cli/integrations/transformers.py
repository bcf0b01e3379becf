"""HomotopyCallback for transformers.Trainer.

    trainer = Trainer(model, args, train_dataset=data, callbacks=[HomotopyCallback()])

The Trainer gives callbacks no batch, so forward hooks remember the last one of the model in
training, and its loss. The Trainer's own schedule stays; the ceiling lowers its rate where
curvature says so. By how much `max_grad_norm`, 1 by default, scaled the gradient is noted where
accelerate clips it (clipping.py): without that the edge would be read too low under Adam.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from homotopy_cli.errors import ProblemError
from homotopy_cli.integrations.ceiling import LOGGED, BorrowedCeiling
from homotopy_cli.integrations.clipping import ClipWatch
from homotopy_cli.problems.criteria import Loss
from homotopy_cli.problems.nest import n_rows
from homotopy_cli.problems.wrappers import unwrap

STATE_FILE = "homotopy.pt"  # beside each checkpoint's trainer_state.json


class HomotopyCallback(TrainerCallback):
    """A curvature ceiling on the Trainer's learning rate.

    The model must return its loss, as transformers' models do where labels are given. Probes
    run on a slice of the last microbatch. State is saved with every checkpoint and restored
    with `resume_from_checkpoint`.

    Args:
        settings: Keywords of GuardSettings: target, signal, budget, estimation_freq, ...

    Attributes:
        ceiling: The BorrowedCeiling while training, with `last`, `history` and `factor`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.ceiling: BorrowedCeiling | None = None
        self._batch: dict[str, Any] | None = None
        self._seen: torch.Tensor | None = None  # the loss of that batch
        self._paused = False
        self._hooks: list[Any] = []
        self._clips: ClipWatch | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Hook the model; continue the state of a checkpoint that is resumed."""
        self._release()
        optimizer = given["optimizer"]
        optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
        model = unwrap(given["model"])
        self._hooks = [
            model.register_forward_pre_hook(self._remember, with_kwargs=True),
            model.register_forward_hook(self._remember_loss),
        ]
        self._clips = ClipWatch(optimizer)
        settings = {"total_steps": state.max_steps} | self.settings
        loss = Loss("the model's own", self._loss, n_rows)
        self.ceiling = BorrowedCeiling(optimizer, model, loss, **settings)
        saved = _folder(args, state) / STATE_FILE
        if state.global_step and saved.is_file():
            self.ceiling.load_state_dict(torch.load(saved, weights_only=True))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Probe if due and lower the rates of the step that follows."""
        if self.ceiling is None:
            return
        if self._batch is None:
            raise ProblemError(
                "HomotopyCallback saw no forward pass of the model with keyword arguments",
                hint="let the Trainer call model(**inputs), or subclass and set the batch",
            )
        clip_coef, norm = self._clips.take()
        whole = args.gradient_accumulation_steps == 1  # else it is a part of the step's loss
        self.ceiling.before_step(
            self._batch, loss=self._seen if whole else None, grad_norm=norm, clip_coef=clip_coef
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
        """Add the last probe, and its step, to what the Trainer logs, as homotopy/NAME."""
        if logs is None or self.ceiling is None or "loss" not in logs:
            return
        for name in LOGGED:
            if name in self.ceiling.last:
                logs[f"homotopy/{name}"] = self.ceiling.last[name]
        if self.ceiling.last:
            logs["homotopy/probe_step"] = self.ceiling.guard.last_step
        logs["homotopy/factor"] = self.ceiling.factor
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(
                {key: value for key, value in logs.items() if key.startswith("homotopy/")}
            )

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Put the state into the checkpoint's folder."""
        folder = _folder(args, state)
        if self.ceiling is not None and state.is_world_process_zero and folder.is_dir():
            torch.save(self.ceiling.state_dict(), folder / STATE_FILE)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Take the hooks off; `ceiling` keeps its history."""
        self._release()

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        if self._clips is not None:
            self._clips.close()
        if self.ceiling is not None:
            self.ceiling.close()
        self._hooks, self._clips, self._batch, self._seen = [], None, None, None

    def _remember(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if module.training and not self._paused and kwargs:
            # The Trainer's count of targets in the whole step: with it the loss of some rows would
            # be a sum over a foreign number. Without it the model takes their mean.
            self._batch = {k: v for k, v in kwargs.items() if k != "num_items_in_batch"}

    def _remember_loss(self, module: torch.nn.Module, args: Any, result: Any) -> None:
        if module.training and not self._paused:
            loss = _loss_of(result)
            self._seen = loss.detach() if isinstance(loss, torch.Tensor) else None

    def _loss(self, model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        self._paused = True
        try:
            result = model(**batch)
        finally:
            self._paused = False
        loss = _loss_of(result)
        if not isinstance(loss, torch.Tensor):
            raise ProblemError(
                f"{type(model).__name__} returned no loss, so there is no curvature to measure",
                hint="give labels in the batch, so that the model computes its own loss",
            )
        return loss


def _loss_of(result: Any) -> Any:
    return result.get("loss") if hasattr(result, "get") else getattr(result, "loss", None)


def _folder(args: Any, state: Any) -> Path:
    """Where the Trainer keeps the checkpoint of the present step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
