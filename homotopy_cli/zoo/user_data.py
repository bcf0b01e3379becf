"""What a user's data callable returns -> a DataSource: arrays, datasets, loaders, or a source.

Batches are drawn by index: the rows of step k are a function of seed and k, whatever sampler or
batch size a DataLoader has.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    default_collate,
)

from homotopy_cli.errors import ProblemError, first_line
from homotopy_cli.zoo.data import DataSource, Rows
from homotopy_cli.zoo.examples import HOLDOUT, Examples, dataset_rows
from homotopy_cli.zoo.npz import array_rows, to_tensor

FORMS = (
    "return (x, y) or {'x': x, 'y': y}, a map-style Dataset, a DataLoader, or two of these: "
    "(training, held out)"
)
_SOURCE = ("info", "batch", "eval_batches", "probe_batches")
_LOADER = "of the DataLoader only dataset and collate_fn are used: order and batch size are ours"
Array = Tensor | np.ndarray


@dataclass(frozen=True)
class _Arrays:
    """Row i of both is example i."""

    x: Tensor
    y: Tensor


def user_source(made: Any, origin: str, dtype: torch.dtype) -> DataSource:
    """The DataSource that a data callable's result means.

    Args:
        made: An object with info, batch, eval_batches and probe_batches, as it is; or (x, y),
            {"x", "y"}, a map-style Dataset or a DataLoader, of which a tenth is held out; or a
            pair of these, whose second is held out.
        origin: The target, for messages.
        dtype: Of floating inputs and targets.

    Raises:
        ProblemError: Anything else, or values that cannot be trained on.
    """
    if all(hasattr(made, name) for name in _SOURCE):
        return made
    where = f"data {origin}"
    paired = isinstance(made, tuple | list) and len(made) == 2
    whole = [_is_whole(part) for part in made] if paired else []
    if (any(whole) and not all(whole)) or not (paired or _is_whole(made)):
        raise ProblemError(f"{where}: returned {_kind(made)}", hint=FORMS)
    given, names = ([made], ("",)) if not any(whole) else (made, (": training", ": held out"))
    parts = [_part(x, where + name, dtype) for x, name in zip(given, names, strict=True)]
    if len(parts) == 2 and all(isinstance(part, _Arrays) for part in parts):
        source = _joined(parts[0], parts[1], origin)
    elif isinstance(parts[0], _Arrays) and len(parts) == 1:
        source = array_rows(parts[0].x, parts[0].y, holdout=HOLDOUT, origin=origin)
    else:
        source = dataset_rows([_examples(part) for part in parts], origin, dtype)
    if any(isinstance(part, DataLoader) for part in given):
        source.info = replace(source.info, note=_LOADER)
    return source


def _is_whole(made: Any) -> bool:
    """Whether this holds inputs and targets by itself; a bare array or list of rows does not."""
    if isinstance(made, Mapping):
        return _keys(made) == {"x", "y"}
    if isinstance(made, tuple | list):
        arrays = all(_is_array(part) for part in made)
        lists = isinstance(made, tuple) and all(isinstance(part, list) for part in made)
        return len(made) == 2 and (arrays or lists)
    if isinstance(made, str | bytes) or _is_array(made) or hasattr(made, "iloc"):  # a column
        return False
    indexed = hasattr(made, "__getitem__") and hasattr(made, "__len__")
    return isinstance(made, DataLoader | Dataset) or indexed


def _is_array(made: Any) -> bool:
    """An array of rows: torch's, NumPy's, or another library's (h5py, zarr, jax)."""
    if isinstance(made, Dataset | DataLoader):
        return False
    other = hasattr(made, "dtype") and hasattr(made, "shape") and hasattr(made, "__array__")
    return (isinstance(made, Array) or other) and len(made.shape) > 0


def _keys(made: Mapping[Any, Any]) -> set[str]:
    return {str(key).lower() for key in made}


def _part(made: Any, where: str, dtype: torch.dtype) -> _Arrays | Examples:
    """One part: training and held-out examples together, or one of them."""
    if isinstance(made, Mapping):
        pair: Any = [next(v for k, v in made.items() if str(k).lower() == name) for name in "xy"]
    elif isinstance(made, tuple | list):
        pair = made
    else:
        dataset, collate = _indexed(made, where)
        pair = _tensors(dataset) if collate is default_collate else None
        if pair is None:
            return Examples(dataset, collate)
    x, y = (_array(part, f"{where}: {name}", dtype) for part, name in zip(pair, "xy", strict=True))
    if len(x) != len(y):
        raise ProblemError(
            f"{where}: x has {len(x)} rows, y has {len(y)}", hint="row i of both is example i"
        )
    return _Arrays(x, y)


def _indexed(made: Any, where: str) -> tuple[Any, Callable[[list[Any]], Any]]:
    """(map-style dataset, what collates its examples) of a dataset or a loader."""
    dataset, collate = made, default_collate
    if isinstance(made, DataLoader):
        dataset, collate = made.dataset, made.collate_fn
        if made.batch_sampler is None and not isinstance(dataset, IterableDataset):
            raise ProblemError(
                f"{where}: a DataLoader with batch_size=None, whose examples are whole batches",
                hint="return a Dataset of single examples: batch_size is the recipe's",
            )
    name, own = type(dataset).__name__, ", ".join(_SOURCE)
    indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, IterableDataset) or not indexed:
        raise ProblemError(
            f"{where}: a {name} has no __len__ and __getitem__, and batches are drawn by index",
            hint=f"a map-style Dataset, or a source of your own with {own}",
        )
    try:
        empty = not len(dataset)
    except Exception as error:
        raise ProblemError(
            f"{where}: a {name} whose length cannot be told: {first_line(error)}", hint=FORMS
        ) from error
    if empty:
        raise ProblemError(f"{where}: the {name} is empty", hint="one example per index")
    return dataset, collate


def _tensors(dataset: Any) -> tuple[Tensor, Tensor] | None:
    """The two tensors of a TensorDataset, or of a Subset of one: taken whole, not one by one."""
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2:
        return dataset.tensors
    if type(dataset) is Subset and (held := _tensors(dataset.dataset)) is not None:
        rows = torch.as_tensor(list(dataset.indices), dtype=torch.int64)
        return held[0][rows], held[1][rows]
    return None


def _array(part: Any, where: str, dtype: torch.dtype) -> Tensor:
    """A tensor on the CPU: floats in `dtype` and finite, whole numbers as int64."""
    try:
        if isinstance(part, list | tuple) and part and all(isinstance(x, Tensor) for x in part):
            part = torch.stack(list(part))
        if isinstance(part, Tensor) and part.is_floating_point():
            part = part.double()  # numpy has no bfloat16
        array = part.detach().cpu().numpy() if isinstance(part, Tensor) else np.asarray(part)
    except (ValueError, TypeError, RuntimeError) as error:
        words = first_line(error)[:80]
        raise ProblemError(f"{where} cannot be made one array: {words}", hint=FORMS) from error
    if array.dtype.kind not in "fiub":
        held = "texts" if array.dtype.kind in "US" else f"values of dtype {array.dtype}"
        raise ProblemError(f"{where} holds {held}, not numbers", hint=FORMS)
    if not array.ndim:
        raise ProblemError(f"{where} is one number, not rows", hint=FORMS)
    return to_tensor(array, where, dtype)


def _joined(train: _Arrays, held_out: _Arrays, origin: str) -> Rows:
    """Rows of both parts, the second of them held out."""
    for name in ("x", "y"):
        a, b = getattr(train, name), getattr(held_out, name)
        if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
            raise ProblemError(
                f"data {origin}: rows of {name} are {_row(a)} in the training part, {_row(b)} in "
                "the held-out part",
                hint="return ((x, y), (x_val, y_val))",
            )
    rows = torch.arange(len(train.x) + len(held_out.x)).split([len(train.x), len(held_out.x)])
    return array_rows(
        torch.cat([train.x, held_out.x]),
        torch.cat([train.y, held_out.y]),
        split=(rows[0], rows[1]),
        origin=origin,
    )


def _row(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape[1:])}"


def _examples(part: _Arrays | Examples) -> Examples:
    return Examples(TensorDataset(part.x, part.y)) if isinstance(part, _Arrays) else part


def _kind(made: Any) -> str:
    """`a tuple of 3 (Tensor, Tensor, Tensor)`, for messages."""
    if isinstance(made, Mapping):
        return f"a dict of {', '.join(map(repr, list(made)[:5])) or 'nothing'}"
    if isinstance(made, tuple | list):
        kinds = ", ".join(type(part).__name__ for part in made[:4])
        more = ", ..." if len(made) > 4 else ""
        return f"a {type(made).__name__} of {len(made)} ({kinds}{more})" if made else "nothing"
    return "None" if made is None else f"a {type(made).__name__}"
