"""The training loss of a batch: plain, in bf16, compiled, or with recomputed activations.

Only training's own forward pass goes through here. Probes, evaluations and checkpoints use the
plain module: the same parameters, float32 arithmetic, nothing compiled, nothing recomputed.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from homotopy_cli.errors import HomotopyError, ProblemError, RecipeError
from homotopy_cli.problems.batches import cast_floats
from homotopy_cli.problems.criteria import NAMES, Loss
from homotopy_cli.problems.evaluation import scalar
from homotopy_cli.problems.misfit import explain_misfit
from homotopy_cli.problems.nest import Batch, n_rows, split_rows
from homotopy_cli.training.recompute import Recomputed

AMP_WORDS = "the training forward pass runs in bf16; probes and evaluations in float32"


class Forward:
    """loss(batch) of the model in training, differentiable.

    Args:
        model: The plain module. `self.model` is what is called: `engine`, or its compiled form.
        loss: The recipe's.
        device: Where both are.
        engine: The module around `model` that averages gradients over ranks; None is `model`.
        amp: "bf16": the model runs under autocast. A named loss is computed from its outputs in
            float32; a user's loss runs under autocast whole, and its value becomes float32.
        compile: Keywords of torch.compile, or None.
        recompute: Drop the activations inside the model's blocks and compute them again.

    Raises:
        RecipeError: torch.compile knows no such backend or mode, or the model has no blocks.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        device: torch.device,
        *,
        engine: nn.Module | None = None,
        amp: str | None = None,
        compile: dict[str, Any] | None = None,
        recompute: bool = False,
    ) -> None:
        self.loss, self.device, self.amp = loss, device, amp
        self.over_classes = loss.name in NAMES and loss.name in ("cross_entropy", "next_token")
        self.logits: list[Tensor] = []  # largest |score| of every pass since `fresh`, 0-d
        self.first: FirstPart | None = None  # of an accumulated batch since `fresh`
        self.blocks = Recomputed(model) if recompute else None
        self.engine = model if engine is None else engine
        self.model: Callable[..., Any] = self.engine
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.compiled = compile is not None
        if compile is not None:
            if self.blocks is not None:
                self.blocks.refuse_batch_norm()
            self.model = _compiled(self.engine, compile)

    def __call__(self, batch: Batch) -> Tensor:
        """The mean loss over the batch; 0-d, with its graph.

        Raises:
            RecipeError: torch.compile fails on this model or this machine.
        """
        with self.blocks or nullcontext():
            if not self.compiled:
                return self._loss(batch)
            try:
                return self._loss(batch)
            except Exception as error:
                raise (explain_compile(error) or error) from error

    def _loss(self, batch: Batch) -> Tensor:
        predict, criterion = self.loss.predict, self.loss.criterion
        half = self.amp is not None
        with torch.autocast(self.device.type, dtype=torch.bfloat16) if half else nullcontext():
            if predict is None or criterion is None:
                loss = scalar(self.loss.function(self.model, batch), f"loss {self.loss.name}")
                refuse_constant(loss, self.loss)
                return loss.float() if half else loss
            outputs = predict(self.model, batch)
        if half:
            outputs = cast_floats(outputs, torch.float32)
        if self.over_classes:
            low, high = torch.aminmax(outputs.detach())
            self.logits.append(torch.maximum(-low, high))
        loss = criterion(outputs, batch)
        refuse_constant(loss, self.loss)
        return loss

    def explain(self, error: Exception, batch: Batch) -> HomotopyError:
        """What a failure of the forward pass, or of the loss, means to a user."""
        if isinstance(error, HomotopyError):
            return error
        return explain_misfit(error, self.engine, batch, training=True)

    def fresh(self) -> None:
        """Forget what the passes of the step before left."""
        self.logits, self.first = [], None


@dataclass(frozen=True)
class FirstPart:
    """‖g‖ of the first part of a batch alone."""

    norm: Tensor  # 0-d, loss/parameter
    rows: int
    of: int  # rows of the batch


def backward(forward: Forward, batch: Batch, *, accumulate: int = 1) -> Tensor:
    """Add the batch's gradient to `.grad`; returns its mean loss, detached, 0-d.

    Args:
        forward: The loss.
        batch: Of one optimizer step.
        accumulate: Split it into so many parts of nearly equal size, one after the other in
            memory. Their mean is weighted by their loss terms, so that loss and gradient are
            the whole batch's to rounding wherever the loss is a mean over rows; batch norm sees
            each part alone, and dropout draws for each.
    """
    forward.fresh()
    rows = n_rows(batch)
    parts = split_rows(batch, -(-rows // accumulate)) if accumulate > 1 else [batch]
    if len(parts) == 1:
        loss = _settled(forward, batch)
        loss.backward()
        return loss.detach()
    counts = [forward.loss.count(part) for part in parts]
    terms = sum(counts)
    total: Tensor | None = None
    for part, count in zip(parts, counts, strict=True):
        if not count and terms:
            continue  # a part without any term has no mean, and no weight
        loss = _settled(forward, part) * (count / terms if terms else 1 / len(parts))
        loss.backward()
        if total is None and terms:
            grads = [p.grad for p in forward.params if p.grad is not None]
            if grads:
                norm = torch.stack(torch._foreach_norm(grads)).norm() * (terms / count)
                forward.first = FirstPart(norm, n_rows(part), rows)
        total = loss.detach() if total is None else total + loss.detach()
    assert total is not None  # some part has a term, or all are taken
    return total


def _settled(forward: Forward, batch: Batch) -> Tensor:
    """The batch's loss, with whatever the user's code raises explained."""
    try:
        return forward(batch)
    except Exception as error:
        raise forward.explain(error, batch) from error


def refuse_constant(loss: Tensor, of: Loss) -> None:
    """Raise ProblemError where no gradient can come of a loss."""
    if not loss.requires_grad:
        raise ProblemError(
            f"loss {of.name} has no gradient: it does not depend on any trainable parameter",
            hint="look for .detach(), .item(), .data, argmax or no_grad in the model and the loss",
        )


def _compiled(model: nn.Module, settings: dict[str, Any]) -> Callable[..., Any]:
    try:
        return torch.compile(model, **settings)
    except Exception as error:  # an unknown backend or mode: each has its own class
        known = ", ".join(torch.compiler.list_backends())
        raise RecipeError(
            f"compile: torch.compile refused {settings}: {_said(error)}",
            hint=f"backends here: {known}",
        ) from error


def explain_compile(error: Exception) -> RecipeError | None:
    """The RecipeError that a failure inside torch.compile means, or None for any other error."""
    module = type(error).__module__
    if not module.startswith(("torch._dynamo", "torch._inductor")):
        return None
    return RecipeError(
        f"compile: the model cannot be compiled here: {_said(error)}",
        hint="compile: {backend: aot_eager} needs no C++ compiler, compile: false none at all",
    )


def _said(error: Exception) -> str:
    """The error's first line, with the next one where it ends in a colon."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[: 1 + lines[0].endswith(":")])
