"""A transformers folder as the model of a recipe: `model: {name: hf, path: FOLDER}`."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from homotopy_cli.errors import ProblemError
from homotopy_cli.recipe.models import Hf
from homotopy_cli.zoo.data import DataInfo
from homotopy_cli.zoo.files import find
from homotopy_cli.zoo.pretrained import config_of, load_folder, new_from_config, transformers_for

# task -> (transformers' class, kind of data it trains on)
_TASKS = {
    "causal_lm": ("AutoModelForCausalLM", "tokens"),
    "masked_lm": ("AutoModelForMaskedLM", "masked"),
    "image_classification": ("AutoModelForImageClassification", "classes"),
}
_DATA_HINT = {
    "tokens": "data: {name: text, path: FILE.txt, tokenizer: FOLDER}",
    "masked": "--set data.objective=masked",
    "classes": "data: {name: image_folder, path: FOLDER}",
}


def build_hf(spec: Hf, info: DataInfo, base_dir: Path | str | None) -> nn.Module:
    """The folder's module with the head of the task, its weights loaded or drawn anew.

    The parameters keep transformers' names, so that a trained checkpoint loads there too.

    Raises:
        ProblemError: No such folder, the extra is missing, or data of another kind or size.
        CheckpointError: transformers cannot build it, or its weights do not fit.
    """
    path = find(spec.path, base_dir, what="transformers folder", key="model.path")
    config = config_of(path) if path.is_dir() else None
    if config is None:
        raise ProblemError(
            f"{spec.path}: is not a transformers folder: it has no config.json with a model_type",
            hint="model.save_pretrained(FOLDER) writes one",
        )
    kind, wanted = _TASKS[spec.task]
    if info.kind != wanted:
        raise ProblemError(
            f"model.task {spec.task} wants {wanted}, the data are {info.kind}: {info.description}",
            hint=_DATA_HINT[wanted],
        )
    library: Any = getattr(transformers_for(path), kind)
    # float32 first: the recipe's dtype is applied to every model alike
    if spec.weights == "random":
        model = new_from_config(path, library, kind, spec.attention)
    else:
        model = load_folder(path, library, kind, torch.float32, spec.attention)
    _check_sizes(spec, model, info)
    return model


def _check_sizes(spec: Hf, model: nn.Module, info: DataInfo) -> None:
    if info.kind == "classes":
        n_classes = model.config.num_labels
        if info.n_classes and n_classes != info.n_classes:
            raise ProblemError(
                f"{spec.path}: its head has {n_classes} classes, the data have {info.n_classes}",
                hint=f"num_labels={info.n_classes} in from_pretrained, then save_pretrained",
            )
        return
    known = model.get_input_embeddings().weight.shape[0]
    if info.vocab_size > known:
        raise ProblemError(
            f"{spec.path}: knows {known} tokens, the data have {info.vocab_size}",
            hint=f"--set data.tokenizer={spec.path}",
        )
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and info.context > longest:
        raise ProblemError(
            f"{spec.path}: has {longest} positions, data.context is {info.context}",
            hint=f"--set data.context={longest}",
        )
