"""A loss guessed from what the model returns and what the batch holds; the evidence is kept."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from homotopy_cli.errors import HomotopyError, ProblemError
from homotopy_cli.problems.batches import cast_floats
from homotopy_cli.problems.calling import (
    call_model,
    describe_result,
    result_loss,
    result_outputs,
    split_target,
)
from homotopy_cli.problems.criteria import NAMES, Loss
from homotopy_cli.problems.misfit import explain_misfit
from homotopy_cli.problems.nest import Batch, is_index
from homotopy_cli.problems.wrappers import Borrowed, forked_rng, quiet_kernels, unwrap
from homotopy_cli.problems.writes import undoing


def guess_loss(model: nn.Module, batch: Batch, *, source: str = "") -> Loss:
    """`output` if the result has a loss, else by the targets' dtype and shape.

    Raises:
        ProblemError: The batch does not fit, or nothing tells what the loss is.
    """
    model = unwrap(model)
    first = next(iter(model.parameters()), torch.zeros(()))
    batch = cast_floats(batch, first.dtype, first.device)
    inputs, target = split_target(batch)
    name, reason = "", ""
    if target is not None:
        with_loss = _result(model, batch, source, fatal=False)
        if with_loss is not None and result_loss(with_loss) is not None:
            return replace(NAMES["output"], reason="the model's result has a loss: output")
    result = _result(model, inputs, source, fatal=True)
    if target is None and result_loss(result) is not None:
        return replace(NAMES["output"], reason="the model's result has a loss: output")
    outputs = result_outputs(result)
    if target is not None:
        _refuse_unclear(outputs, target, f"{source}: " if source else "")
        name, reason = _by_target(outputs, target)
    elif isinstance(inputs, Tensor) and is_index(inputs) and outputs.ndim == 3:
        name, reason = "next_token", "the batch is only tokens, with scores for each: next_token"
    if not name:
        held = "no targets" if target is None else f"targets {_words(target)}"
        raise ProblemError(
            f"the loss cannot be guessed: {held}, and the model returns {describe_result(result)}",
            hint=f"--loss {', '.join(NAMES)}, or --loss FILE.py:CALLABLE",
        )
    return replace(NAMES[name], reason=reason)


def _refuse_unclear(outputs: Tensor, target: Tensor, place: str) -> None:
    """Raise where rows differ in number, or where the targets could be of several losses."""
    if outputs.ndim and target.ndim and len(outputs) != len(target):
        raise ProblemError(
            f"{place}{len(outputs)} outputs but {len(target)} targets",
            hint="one row of targets for each row of inputs",
        )
    if target.ndim < 2 or target.shape != outputs.shape or target.shape[-1] < 2:
        return
    rows = target.detach().double()
    sums = rows.sum(-1)
    if bool((rows >= 0).all()) and bool(torch.isclose(sums, torch.ones_like(sums)).all()):
        raise ProblemError(
            f"{place}the loss cannot be guessed: targets {_words(target)} are rows that sum to 1, "
            "classes for cross_entropy as well as numbers for bce and mse",
            hint="as the model was trained: --loss bce, --loss mse, or "
            + ("y.argmax(-1) as targets of " if is_index(target) else "")
            + "--loss cross_entropy",
        )


def _by_target(outputs: Tensor, target: Tensor) -> tuple[str, str]:
    """(name, evidence), or ("", "")."""
    kind = str(target.dtype).removeprefix("torch.")
    same = target.squeeze(-1).shape == outputs.squeeze(-1).shape
    if is_index(target):
        classes = target.squeeze(-1) if target.ndim == outputs.ndim else target
        last, second = outputs.shape[:-1], (*outputs.shape[:1], *outputs.shape[2:])
        if outputs.ndim >= 2 and outputs.shape[1] > 1 and tuple(classes.shape) in (last, second):
            return "cross_entropy", f"targets are {kind} class indices: cross_entropy"
        if same and bool(((target == 0) | (target == 1)).all()):
            return "bce", f"targets are {kind} zeros and ones, one per output: bce"
    if same and target.dtype == torch.bool:
        return "bce", "targets are bool, one per output: bce"
    if same and target.is_floating_point():
        return "mse", f"targets are {kind} in the outputs' shape: mse"
    return "", ""


def _result(model: nn.Module, inputs: Batch, source: str, *, fatal: bool) -> object:
    """One call in eval mode, without a trace; None if it fails and need not succeed."""
    first = next(iter(model.parameters()), torch.zeros(()))
    borrowed = Borrowed(model, {}, "eval")
    try:
        borrowed.fresh_buffers(None, first.device)
        with undoing(model), forked_rng(first.device, 0), quiet_kernels(model, first.device):
            return call_model(model, inputs)
    except HomotopyError:
        raise
    except Exception as error:
        if not fatal:
            return None
        raise explain_misfit(error, model, inputs, source) from error
    finally:
        borrowed.release()


def _words(target: Tensor) -> str:
    return f"{str(target.dtype).removeprefix('torch.')} {list(target.shape)}"
