"""An exception inside a forward pass, explained: which file, which module, given and wanted.

The exception's own traceback is read: its frames hold the modules and functions that were
running, with their arguments. Nothing is run again.
"""

import re
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from homotopy_cli.errors import ProblemError, first_line
from homotopy_cli.problems.counting import IGNORED
from homotopy_cli.problems.forms import form_hint, image_words
from homotopy_cli.problems.nest import Batch, describe
from homotopy_cli.problems.signatures import EXPECTED

_FUNCTIONAL = "torch.nn.functional"
_CAST = "cast the inputs where the data are made: x.float(), of pixels x.float() / 255"
# What to do, in the words of who asks: `homotopy probe` on a file, a recipe, a caller's own code.
_DTYPE = {
    "probe": "the model fixes a dtype by itself: try --dtype float32",
    "recipe": "the model fixes a dtype by itself: try --set dtype=float32",
    "library": "the model fixes a dtype by itself: give it a batch, and weights, of that dtype",
}
_SIZES = {
    "probe": "check {source}, or the sizes the model was built with (--model-arg)",
    "recipe": "check the data, or the sizes the model is built with; --debug shows where it failed",
    "library": "check the batch, or the sizes the model was built with",
}
_MEMORY = {
    "probe": "--microbatch 1 splits the batch and gives the same numbers",
    "recipe": "a smaller batch_size, or accumulate: 4 for the same one in parts",
    "library": "a smaller probe_fraction; in Problem.from_module microbatch=1, the same numbers",
}
_OWN = f"{EXPECTED}; --debug shows where it failed"
_CALLED = {
    "probe": _OWN,
    "recipe": _OWN,
    "library": "a function of your own is called loss_fn(model, batch) with the batch as it was "
    "given",
}


def explain_misfit(
    error: BaseException,
    model: nn.Module | None,
    batch: Batch,
    source: str = "",
    *,
    training: bool = False,
) -> ProblemError:
    """The ProblemError that tells a user why `batch` could not be measured, or trained on.

    Args:
        error: What the forward pass or the loss raised, with its traceback.
        model: Its submodules' paths name the place; None for a closure.
        batch: What was given, for its shapes.
        source: The batch's file; "" has none, and came from a caller's own code.
        training: Hints speak of a recipe, not of the options of `probe`.
    """
    place = f"{source}: " if source else ""
    voice = "recipe" if training else "probe" if source else "library"
    if isinstance(error, torch.OutOfMemoryError):
        return ProblemError(
            f"{place}out of memory on a batch of {describe(batch)}",
            hint=_MEMORY[voice],
        )
    hint, fixed = _SIZES[voice].format(source=source), _DTYPE[voice]
    names = {} if model is None else {id(m): name for name, m in model.named_modules()}
    module, calls = _running(error.__traceback__, names)
    for function, arguments in reversed(calls):
        known = _EXPLAINED.get(function)
        words = known(arguments) if known else ""
        if words:
            return ProblemError(f"{place}{words}", hint=hint)
    if module is not None:
        where = _module_words(module, names)
        given = _given(module, calls)
        images, steps = ("", "") if given is None else image_words(module, given)
        words = _feature_words(module, given)
        if words and images:
            return ProblemError(f"{place}{images} ({where})", hint=steps)
        if words:
            if re.fullmatch(r"(u?int\d+|bool) given, b?float\d+ wanted", words):
                return ProblemError(f"{place}{words} ({where})", hint=_CAST)
            own = re.fullmatch(r"b?float\d+ given, b?float\d+ wanted", words)
            # batches come in the model's own dtype
            return ProblemError(f"{place}{words} ({where})", hint=fixed if own else hint)
        said = first_line(error, named=True)
        return ProblemError(
            f"{place}{where} cannot take this batch ({describe(batch)}): {said}",
            hint=fixed
            if _of_dtypes(said)
            else (not training and form_hint(error, batch, library=voice == "library")) or hint,
        )
    said = first_line(error, named=True)
    return ProblemError(
        f"{place}the loss cannot take this batch ({describe(batch)}): {said}",
        hint=fixed if _of_dtypes(said) else _CALLED[voice],
    )


def _running(
    trace: TracebackType | None, names: dict[int, str]
) -> tuple[nn.Module | None, list[tuple[str, dict[str, Any]]]]:
    """The innermost submodule that was running, and (function, locals) of the frames, in order."""
    module, calls = None, []
    while trace is not None:
        frame = trace.tb_frame
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in names:
            module = owner
            if frame.f_code.co_name == "forward":
                calls.append(("forward", {"self": owner, **_arguments(frame)}))
        elif frame.f_globals.get("__name__") == _FUNCTIONAL:
            calls.append((frame.f_code.co_name, _arguments(frame)))
        trace = trace.tb_next
    return module, calls


def _arguments(frame: Any) -> dict[str, Any]:
    """Tensor and number locals of a frame."""
    return {k: v for k, v in frame.f_locals.items() if isinstance(v, Tensor | int | float | str)}


def _label_words(arguments: dict[str, Any]) -> str:
    """cross_entropy, nll_loss: a class index outside the classes, or rows that differ."""
    scores, target = arguments.get("input"), arguments.get("target")
    if not isinstance(scores, Tensor) or not isinstance(target, Tensor):
        return ""
    if target.is_floating_point() or scores.is_cuda or not target.numel() or scores.ndim == 0:
        return _shape_words(arguments)
    n_classes = scores.shape[1] if scores.ndim > 1 else scores.shape[0]
    kept = target[target != arguments.get("ignore_index", IGNORED)]
    wrong = kept[(kept < 0) | (kept >= n_classes)]
    if wrong.numel():
        return f"label {int(wrong[0])} out of range 0..{n_classes - 1}"
    return _shape_words(arguments)


def _shape_words(arguments: dict[str, Any]) -> str:
    """Losses of (input, target) whose shapes do not go together."""
    scores, target = arguments.get("input"), arguments.get("target")
    if not isinstance(scores, Tensor) or not isinstance(target, Tensor):
        return ""
    if scores.ndim and target.ndim and len(scores) != len(target):
        return f"{len(scores)} outputs but {len(target)} targets"
    return (
        f"outputs {_kind(scores)} {list(scores.shape)} and targets "
        f"{_kind(target)} {list(target.shape)} do not go together"
    )


def _index_words(arguments: dict[str, Any]) -> str:
    """embedding: an index outside the table."""
    index, table = arguments.get("input"), arguments.get("weight")
    if not isinstance(index, Tensor) or not isinstance(table, Tensor) or index.is_cuda:
        return ""
    if index.is_floating_point():
        return f"{_kind(index)} values given, integer indices wanted (embedding)"
    wrong = index[(index < 0) | (index >= len(table))]
    if wrong.numel():
        return f"index {int(wrong.flatten()[0])} out of range 0..{len(table) - 1} (embedding)"
    return ""


_EXPLAINED = {
    "nll_loss": _label_words,
    "cross_entropy": _label_words,
    "mse_loss": _shape_words,
    "l1_loss": _shape_words,
    "smooth_l1_loss": _shape_words,
    "binary_cross_entropy": _shape_words,
    "binary_cross_entropy_with_logits": _shape_words,
    "embedding": _index_words,
}


def _given(module: nn.Module, calls: list[tuple[str, dict[str, Any]]]) -> Tensor | None:
    """The first tensor that the module was called with."""
    return next(
        (
            value
            for name, arguments in reversed(calls)
            if name == "forward" and arguments["self"] is module
            for value in arguments.values()
            if isinstance(value, Tensor)
        ),
        None,
    )


def _feature_words(module: nn.Module, given: Tensor | None) -> str:
    """Features or channels given against those the module was built for."""
    if given is None or given.ndim == 0:
        return ""
    weight = getattr(module, "weight", None)
    for attribute, axis, noun in (
        ("in_features", -1, "features"),
        ("in_channels", 1, "channels"),
        ("num_features", 1, "features"),
        ("input_size", -1, "features"),
    ):
        wanted = getattr(module, attribute, None)
        if isinstance(wanted, int) and -given.ndim <= axis < given.ndim:
            found = given.shape[axis]
            if found != wanted:
                return f"{found} {noun} given, {wanted} wanted"
    shape = getattr(module, "normalized_shape", None)
    if shape is not None and tuple(given.shape[-len(shape) :]) != tuple(shape):
        return f"{list(given.shape[-len(shape) :])} given, {list(shape)} wanted"
    if isinstance(weight, Tensor) and weight.dtype != given.dtype:
        return f"{_kind(given)} given, {_kind(weight)} wanted"
    return ""


def _module_words(module: nn.Module, names: dict[int, str]) -> str:
    path = names[id(module)]
    kind = type(module).__name__
    return f'module "{path}", {kind}' if path else f"the model, {kind}"


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _of_dtypes(said: str) -> bool:
    """Whether an error is about dtypes: a model that builds float32 tensors on its own."""
    return "same dtype" in said or "scalar type" in said or "dtype" in said
