"""What a batch may look like, and what to do where it does not: hints for errors."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from homotopy_cli.problems.calling import TARGET_KEYS
from homotopy_cli.problems.nest import Batch, walk

_OF_WEIGHTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


def weights_inside(content: object) -> list[str]:
    """The names of a state_dict, also of a nested one; none for anything else."""
    if not isinstance(content, Mapping):
        return []
    names = [name for name, _ in walk(content)]
    named = [n for n in names if "." in n and n.rpartition(".")[2] in _OF_WEIGHTS]
    return named if 2 * len(named) > len(names) else []


def form_hint(error: BaseException, batch: Batch, *, library: bool = False) -> str:
    """What forms are recognised, where a model was called with one that it does not take.

    Args:
        error, batch: See explain_misfit.
        library: Speak to a caller's own code, not to a command line.
    """
    if not isinstance(error, TypeError | KeyError | AttributeError):
        return ""
    own = "--loss FILE.py:CALLABLE with loss(model, batch)"
    own = "give a function loss_fn(model, batch)" if library else own
    if isinstance(batch, Mapping):
        return (
            "of a dict, inputs are recognised by the names of forward's arguments, targets as "
            f"{', '.join(TARGET_KEYS[:-1])} or {TARGET_KEYS[-1]}; or {own}"
        )
    if isinstance(batch, list | tuple):
        return (
            "a tuple is (inputs, targets); of a longer one the last are the targets, all others "
            f"arguments of the model; or {own}"
        )
    return ""


def image_words(module: nn.Module, given: Tensor) -> tuple[str, str]:
    """(what is wrong, hint) of images as files hold them: bytes, channels last; else empty."""
    wanted = getattr(module, "in_channels", None)
    words, steps = "", []
    last = given.ndim == 4 and wanted in _CHANNELS and given.shape[-1] == wanted
    if last and given.shape[1] != wanted:
        words = f"{given.shape[1]} channels given, {wanted} wanted: here the last axis has them"
        steps.append("x.transpose(0, 3, 1, 2), in torch x.permute(0, 3, 1, 2)")
    if given.dtype == torch.uint8:
        words = words or "uint8 given, float wanted"
        steps.append("x.astype('float32') / 255, less the training's mean and over its std")
    return words, "save the batch as the model was trained: " + "; then ".join(steps)
