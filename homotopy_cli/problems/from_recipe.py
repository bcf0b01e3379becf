"""Recipe -> model, loss and data: one path for probe and train."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from homotopy_cli.problems.batches import cast_floats
from homotopy_cli.problems.criteria import NAMES, Loss, resolve_loss
from homotopy_cli.problems.nest import Batch
from homotopy_cli.recipe.schema import Recipe
from homotopy_cli.zoo.data import DataInfo, DataSource
from homotopy_cli.zoo.registry import build_data, build_model

PROBE_ROWS = 64  # at least so many rows, where a row is one example: our choice
_BY_KIND = {
    "tokens": "next_token",
    "masked": "cross_entropy",
    "classes": "cross_entropy",
    "regression": "mse",
}


@dataclass(frozen=True)
class Ingredients:
    """What a recipe names, built."""

    model: nn.Module
    loss: Loss
    data: DataSource


def build_model_loss_data(recipe: Recipe, *, base_dir: Path | str | None) -> Ingredients:
    """Build a recipe's data, model (from torch's global generator) and loss, in this order.

    Args:
        recipe: Validated.
        base_dir: Where its relative paths start.

    Raises:
        HomotopyError: One of them cannot be built, or they do not fit together.
    """
    dtype = getattr(torch, recipe.dtype)
    data = build_data(recipe.data, base_dir, dtype=dtype)
    model = build_model(recipe.model, data.info, base_dir=base_dir).to(dtype)
    return Ingredients(model, recipe_loss(recipe, base_dir, model, data), data)


def recipe_loss(
    recipe: Recipe, base_dir: Path | str | None, model: nn.Module, data: DataSource
) -> Loss:
    """The loss a recipe names; without one, by the data: tokens, classes or numbers.

    Data of no kind (the quadratic model's) leave it to the model's result.
    """
    if recipe.loss is not None:
        return resolve_loss(recipe.loss, base_dir=base_dir)
    name = _BY_KIND.get(data.info.kind)
    if name is not None:
        return replace(NAMES[name], reason=_reason(data.info, name))
    batch = probe_batches(data, recipe, rows=2)[0]
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    return resolve_loss(None, model=model, batch=cast_floats(batch, dtype))


def _reason(info: DataInfo, name: str) -> str:
    """The evidence for a loss that nobody named; "" for tokens, which leave no choice."""
    if info.kind == "classes":
        counted = f", {info.n_classes} classes" if info.n_classes else ""
        return f"the data's targets are whole numbers{counted}: {name}"
    return f"the data's targets are floats: {name}" if info.kind == "regression" else ""


def probe_batches(data: DataSource, recipe: Recipe, *, rows: int | None = None) -> list[Batch]:
    """The held-out rows that a probe of a checkpoint measures on, as one batch.

    As many as a training step sees; small batches of single examples are made larger, rows of
    tokens are not, since each is many terms.
    """
    least = 1 if data.info.kind in ("tokens", "masked") else PROBE_ROWS
    return data.probe_batches(rows or max(least, recipe.batch_size), 1)
