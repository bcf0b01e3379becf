"""Where a run computes: the recipe's `device` -> a torch device, and batches onto it."""

import re
from typing import Any

import torch

from homotopy_cli.errors import RecipeError
from homotopy_cli.problems.nest import map_tensors


def resolve_device(name: str) -> torch.device:
    """The device that a recipe's `device` means on this machine, with its index.

    Args:
        name: cpu, cuda, cuda:N, mps, or auto: cuda where torch sees one, else cpu.

    Raises:
        RecipeError: No such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise _absent("mps", "Apple's Metal is not available here")
        return torch.device("mps", 0)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise _absent(name, f"torch {torch.__version__} sees no CUDA device")
    match = re.fullmatch(r"cuda:(\d+)", name)
    index = int(match[1]) if match else torch.cuda.current_device()
    if index >= count:
        seen = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise _absent(name, f"torch sees {seen}", hint="--set device=cuda")
    return torch.device("cuda", index)


def on_device(batch: Any, device: torch.device) -> Any:
    """The same nest with every tensor on `device`; on the CPU the batch itself."""
    if device.type == "cpu":
        return batch
    return map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))


def _absent(name: str, why: str, *, hint: str = "") -> RecipeError:
    default = "--set device=cpu, or device=auto to take a GPU where there is one"
    return RecipeError(f"device: {name} is not here: {why}", hint=hint or default)
