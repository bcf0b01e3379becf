"""Nests of tensors: a batch is a tensor, or a tuple, list, dict or Mapping of batches."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Batch = Any  # Tensor | tuple | list | Mapping, nested; other leaves are passed through


def map_tensors(batch: Batch, function: Callable[[Tensor], Tensor]) -> Batch:
    """The same nest with `function` applied to every tensor; other leaves are kept."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        items = {key: map_tensors(value, function) for key, value in batch.items()}
        try:
            return type(batch)(items)  # keeps UserDict kinds that models read by attribute
        except TypeError:
            return items
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(value, function) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map_tensors(value, function) for value in batch)
    return batch


def walk(batch: Batch, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its place: "" for a bare one, "[1]" or "labels" inside a container."""
    if isinstance(batch, Tensor):
        yield name, batch
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from walk(value, f"{name}.{key}" if name else str(key))
    elif isinstance(batch, list | tuple):
        for index, value in enumerate(batch):
            yield from walk(value, f"{name}[{index}]")


def n_rows(batch: Batch) -> int:
    """The length of the first dimension of the first tensor that has one; 1 if none has."""
    return next((len(tensor) for _, tensor in walk(batch) if tensor.ndim > 0), 1)


def n_indices(batch: Batch) -> int:
    """Numbers in the longest tensor of integers: tokens, where the loss counts rows."""
    return max((t.numel() for _, t in walk(batch) if not t.is_floating_point()), default=0)


def split_rows(batch: Batch, size: int) -> list[Batch]:
    """Chunks of at most `size` rows; tensors of another length belong to every chunk."""
    rows = n_rows(batch)
    if rows <= size:
        return [batch]

    def chunk(start: int) -> Batch:
        return map_tensors(
            batch, lambda t: t[start : start + size] if t.ndim and len(t) == rows else t
        )

    return [chunk(start) for start in range(0, rows, size)]


def describe(batch: Batch) -> str:
    """Kinds and shapes in words: "float32 [4, 6], int64 [4]"."""

    def one(name: str, tensor: Tensor) -> str:
        label = f"{name} " if name and not name.startswith("[") else ""
        return f"{label}{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"

    return ", ".join(one(name, tensor) for name, tensor in walk(batch)) or type(batch).__name__


def is_index(tensor: Tensor) -> bool:
    """An integer tensor (indices, tokens, classes); bool is not."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
