"""Mean losses that also count their terms, by name, by callable, or guessed by evidence."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from homotopy_cli.errors import ProblemError, first_line
from homotopy_cli.problems.axes import class_axis
from homotopy_cli.problems.calling import (
    call_model,
    describe_result,
    result_loss,
    result_outputs,
    split_target,
)
from homotopy_cli.problems.counting import (
    IGNORED,
    class_mass,
    count_elements,
    count_output,
    count_rows,
    count_targets,
    count_tokens,
)
from homotopy_cli.problems.nest import Batch, is_index
from homotopy_cli.problems.signatures import takes_outputs
from homotopy_cli.problems.torch_criteria import criterion_mass, in_dtype
from homotopy_cli.recipe.targets import load_target


@dataclass(frozen=True)
class Loss:
    """A scalar mean loss of (model, batch), and how many terms it averages over.

    `predict` and `criterion` are the seam that a Gauss-Newton matrix needs: function(model,
    batch) = criterion(predict(model, batch), batch). A user's callable has no seam.
    """

    name: str
    function: Callable[[nn.Module, Batch], Tensor]
    count: Callable[[Batch], int]  # rows, or targets that are not ignored
    reason: str = ""  # the evidence, when it was guessed
    predict: Callable[[nn.Module, Batch], Tensor] | None = None
    criterion: Callable[[Tensor, Batch], Tensor] | None = None
    sums: bool = False  # over its terms, as reduction="sum" does; of several batches the sum
    mass: Callable[[Batch], float] | None = None  # what the mean divides by, if not the count


def resolve_loss(
    spec: str | Callable[..., Any] | Loss | None,
    *,
    base_dir: Path | str | None = None,
    model: nn.Module | None = None,
    batch: Batch = None,
) -> Loss:
    """The loss that `spec` means.

    Args:
        spec: A Loss; a name of NAMES; a callable loss(model, batch) -> scalar; called
            criterion(outputs, targets): a torch criterion such as nn.CrossEntropyLoss(), a
            function of torch.nn.functional, or one whose two arguments have such names;
            "file.py:NAME" or "package.module:NAME" of any (a criterion's class is called without
            arguments); None: `output` if the model's result has a loss, else guessed from the
            targets, with the evidence in `reason`. A callable may have an attribute
            `count(batch) -> int`.
        base_dir: Folder that a relative file.py starts from.
        model, batch: Needed for None only; the model is called once, without a trace.

    Raises:
        ProblemError: An unknown name, or nothing to guess from.
    """
    if isinstance(spec, Loss):
        return spec
    if isinstance(spec, str):
        if spec in NAMES:
            return NAMES[spec]
        if ":" in spec:
            found = load_target(spec, base_dir or Path.cwd())
            return replace(_from_object(_instance(spec, found)), name=spec)
        close = difflib.get_close_matches(spec, NAMES, n=1)
        raise ProblemError(
            f"loss {spec!r} is not one of {', '.join(NAMES)}",
            hint=f"did you mean {close[0]!r}?" if close else "or write --loss FILE.py:CALLABLE",
        )
    if spec is not None:
        return _from_object(spec)
    if model is None or batch is None:
        raise ProblemError(
            "no loss is given and there is no batch to guess it from",
            hint=f"--loss {' or '.join(NAMES)}, or --loss FILE.py:CALLABLE",
        )
    from homotopy_cli.problems.guess import guess_loss

    return guess_loss(model, batch)


def _from_object(found: Any) -> Loss:
    """torch's criteria take (outputs, targets); a user's function too where its names say so."""
    if isinstance(found, nn.Module) or getattr(found, "__module__", "") == F.__name__:
        return from_criterion(found)
    if callable(found) and takes_outputs(found):
        made = from_criterion(found)
        return replace(made, count=getattr(found, "count", made.count))
    return from_callable(found)


def _instance(spec: str, found: Any) -> Any:
    """A criterion's class as an object; anything else as it is."""
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        return found
    try:
        return found()
    except Exception as error:  # user code: anything may come
        raise ProblemError(
            f"loss {spec}: cannot be made without arguments: {first_line(error, named=True)}",
            hint="name an object of it, or a function loss(model, batch)",
        ) from error


def from_callable(function: Callable[[nn.Module, Batch], Tensor]) -> Loss:
    """A user's loss(model, batch); it counts by its own `count`, else targets, else rows."""
    if not callable(function):
        raise ProblemError(
            f"the loss is a {type(function).__name__}, not a callable",
            hint="write def loss(model, batch): return a scalar mean",
        )
    name = getattr(function, "__name__", type(function).__name__)
    return Loss(name, function, getattr(function, "count", None) or count_targets)


def from_criterion(criterion: Callable[..., Tensor]) -> Loss:
    """A torch-like criterion(outputs, targets) as a Loss on batches (inputs, targets)."""
    ignored = getattr(criterion, "ignore_index", IGNORED)
    casts: dict[torch.dtype, Callable[..., Tensor]] = {}

    def evaluate(outputs: Any, batch: Batch) -> Tensor:
        target = _target(batch, type(criterion).__name__)
        return in_dtype(criterion, outputs, casts)(outputs, target)

    def predict(model: nn.Module, batch: Batch) -> Any:
        return call_model(model, split_target(batch)[0])

    return Loss(
        getattr(criterion, "__name__", type(criterion).__name__),
        lambda model, batch: evaluate(predict(model, batch), batch),
        lambda batch: count_targets(batch, ignored=ignored),
        predict=predict,
        criterion=evaluate,
        sums=getattr(criterion, "reduction", "mean") == "sum",
        mass=criterion_mass(criterion, ignored),
    )


def _target(batch: Batch, name: str) -> Tensor:
    """The batch's targets, or an error that says which loss wanted them."""
    target = split_target(batch)[1]
    if target is None:
        raise ProblemError(
            f"loss {name} wants targets, and the batch has none",
            hint="a batch is (inputs, targets), or a dict with 'labels'",
        )
    return target


def _predict(model: nn.Module, batch: Batch) -> Tensor:
    return result_outputs(call_model(model, split_target(batch)[0]))


def _cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    """Classes on axis 1 as in torch, or on the last: see axes.class_axis."""
    target = _target(batch, "cross_entropy")
    last = outputs.ndim - 1
    if target.is_floating_point() and target.shape == outputs.shape:  # class probabilities
        if class_axis(outputs, target, batch)[0] == last:
            outputs, target = outputs.flatten(0, -2), target.flatten(0, -2)
        return F.cross_entropy(outputs, target)
    if target.ndim == outputs.ndim and target.shape[-1] == 1:
        target = target.squeeze(-1)
    if target.dtype != torch.int64 and is_index(target):
        target = target.long()
    if outputs.shape[:-1] == target.shape and class_axis(outputs, target, batch)[0] == last:
        outputs, target = outputs.reshape(-1, outputs.shape[-1]), target.reshape(-1)
    if outputs.is_cuda:  # a device-side assertion would take the whole process down
        check_labels(target, outputs.shape[1])
    return F.cross_entropy(outputs, target, ignore_index=IGNORED)


def check_labels(target: Tensor, n_classes: int) -> None:
    """Raise IndexError for a class index outside 0..n_classes-1, with the value."""
    if target.numel():
        kept = target.masked_fill(target == IGNORED, 0)
        low, high = torch.stack(torch.aminmax(kept)).tolist()  # one transfer from the device
        if low < 0 or high >= n_classes:
            bad = high if high >= n_classes else low
            raise IndexError(f"label {bad} out of range 0..{n_classes - 1}")


def _tokens(batch: Batch) -> tuple[Batch, Tensor, bool]:
    """(inputs, targets, whether targets are the inputs and must be shifted by one)."""
    inputs, target = split_target(batch)
    if target is None:
        tokens = inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs
        if not isinstance(tokens, Tensor):
            raise ProblemError(
                "loss next_token wants tokens: a (rows, length) integer tensor",
                hint="a batch is tokens, (tokens, next tokens), or a dict with 'input_ids'",
            )
        mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
        if isinstance(mask, Tensor) and mask.shape == tokens.shape:  # padding is no target
            return inputs, tokens.masked_fill(mask == 0, IGNORED), True
        return inputs, tokens, True
    return inputs, target, hasattr(batch, "keys") and "input_ids" in batch


def _next_token(outputs: Tensor, batch: Batch) -> Tensor:
    """Scores at t against the token at t+1; the (tokens, next tokens) form is already shifted."""
    _, target, shift = _tokens(batch)
    if outputs.ndim != 3:
        raise ProblemError(
            f"loss next_token wants scores (rows, length, vocabulary), got {list(outputs.shape)}",
            hint="--loss cross_entropy for one score vector per row",
        )
    if shift:
        outputs, target = outputs[:, :-1], target[:, 1:]
    scores, target = outputs.reshape(-1, outputs.shape[-1]), target.reshape(-1).long()
    if scores.is_cuda:
        check_labels(target, scores.shape[1])
    return F.cross_entropy(scores, target, ignore_index=IGNORED)


def _next_token_predict(model: nn.Module, batch: Batch) -> Tensor:
    return result_outputs(call_model(model, _tokens(batch)[0]))


def _count_next_token(batch: Batch) -> int:
    _, target, shift = _tokens(batch)
    return count_tokens(target[:, 1:] if shift else target)


def _aligned(outputs: Tensor, batch: Batch, name: str) -> Tensor:
    """Targets in the outputs' shape and dtype; never broadcast, only trailing ones are added."""
    target = _target(batch, name)
    if target.shape != outputs.shape:
        if target.squeeze(-1).shape != outputs.squeeze(-1).shape:
            raise ProblemError(
                f"loss {name}: outputs {list(outputs.shape)} and targets {list(target.shape)} "
                "differ in shape",
                hint="broadcasting them would average pairs that do not belong together",
            )
        target = target.reshape(outputs.shape)
    return target.to(outputs.dtype)


def _mse(outputs: Tensor, batch: Batch) -> Tensor:
    return F.mse_loss(outputs, _aligned(outputs, batch, "mse"))


def _bce(outputs: Tensor, batch: Batch) -> Tensor:
    """Outputs are logits."""
    return F.binary_cross_entropy_with_logits(outputs, _aligned(outputs, batch, "bce"))


def _output(model: nn.Module, batch: Batch) -> Tensor:
    result = call_model(model, batch)
    loss = result_loss(result)
    if loss is None:
        raise ProblemError(
            f"loss output: the model returns {describe_result(result)}, without a loss",
            hint="--loss cross_entropy, next_token, mse, bce, or FILE.py:CALLABLE",
        )
    return loss


def _composed(
    name: str,
    criterion: Callable[[Tensor, Batch], Tensor],
    count: Callable[[Batch], int],
    predict: Callable[[nn.Module, Batch], Tensor] = _predict,
    mass: Callable[[Batch], float] | None = None,
) -> Loss:
    def function(model: nn.Module, batch: Batch) -> Tensor:
        return criterion(predict(model, batch), batch)

    return Loss(name, function, count, predict=predict, criterion=criterion, mass=mass)


NAMES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        _composed("cross_entropy", _cross_entropy, count_targets, mass=class_mass),
        _composed("next_token", _next_token, _count_next_token, _next_token_predict),
        _composed("mse", _mse, count_rows, mass=count_elements),
        _composed("bce", _bce, count_rows, mass=count_elements),
        Loss("output", _output, count_output),
    )
}
