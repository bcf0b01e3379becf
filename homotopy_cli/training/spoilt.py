"""NaN and infinity in a batch: where a loss is not finite, the data are looked at first."""

import math
from typing import Any

import torch

from homotopy_cli.problems.nest import Batch, walk

_PAIR = {"[0]": "x", "[1]": "y"}


def spoilt(batch: Batch) -> str:
    """`1 NaN in x, 2 infinite values in y`; "" where every number of the batch is finite.

    An attention mask of 0 and -inf is as it should be.
    """
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    found = []
    for name, tensor in walk(batch):
        if not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
            continue
        if bool(((tensor == 0) | (tensor == -math.inf)).all()):
            continue
        place = (_PAIR.get(name, name) if pair else name) or "it"
        nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
        counts = [f"{nan} NaN"] if nan else []
        counts += [f"{infinite} infinite value{'s' * (infinite > 1)}"] if infinite else []
        found.append(f"{' and '.join(counts)} in {place}")
    return ", ".join(found)


def spoilt_step(run: Any, step: int) -> str:
    """What is wrong with the whole batch of a step, all ranks' rows; "" for nothing."""
    return spoilt(run.data.batch(step, run.recipe.batch_size, run.recipe.seed))
