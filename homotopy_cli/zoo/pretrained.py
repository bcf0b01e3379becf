"""transformers folders: config.json beside weights -> the module. Needs the extra `hf`.

The class is chosen by the task, or is the one its config names; what transformers' loader
reports as missing, unexpected or of another shape is an error here. Nothing is downloaded, and
code that a folder brings along is not run.
"""

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from homotopy_cli.errors import CheckpointError, ProblemError, first_line

CONFIG = "config.json"
_WORDS = {
    "missing": "are not in the folder's weights",
    "mismatched": "have another shape",
    "unexpected": "are in the weights but not in the model",
}


def config_of(path: Path) -> dict[str, Any] | None:
    """The config of a transformers folder; None for any other folder."""
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) and "model_type" in config else None


def transformers_for(path: Path) -> ModuleType:
    """The library, or the error that names the extra."""
    try:
        import transformers
    except ImportError as error:
        raise ProblemError(
            f"{path}: is a transformers folder, and transformers is not installed",
            hint="pip install 'homotopy-cli[hf]'",
        ) from error
    return transformers


def architecture(config: Mapping[str, Any]) -> str:
    """The class that the config names, "" where it names none."""
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def load_folder(
    path: Path, kind: Any, name: str, dtype: torch.dtype, attention: str = "eager"
) -> nn.Module:
    """The module with its weights, whole or not at all; no key-value cache.

    Args:
        path: The folder.
        kind: A class of transformers with `from_pretrained`.
        name: How messages call it.
        dtype: Of the parameters.
        attention: transformers' `attn_implementation`.

    Raises:
        CheckpointError: transformers cannot build it, or tensors are missing, unexpected or of
            another shape.
    """
    library = transformers_for(path)
    with quiet(library), torch.random.fork_rng(devices=[]):
        try:
            model, report = kind.from_pretrained(
                path,
                local_files_only=True,
                trust_remote_code=False,
                dtype=dtype,
                attn_implementation=attention,
                output_loading_info=True,
            )
        except Exception as error:  # a library's loader: many kinds
            raise unbuildable(path, name, error) from error
    for word in _WORDS:
        left = sorted(str(k) for k in report.get(f"{word}_keys") or ())
        if left:
            raise CheckpointError(
                f"{path}: {name}: {len(left)} tensors {_WORDS[word]}: {', '.join(left[:3])}",
                hint="the weights are of another architecture than config.json says; fix "
                "`architectures` there, or pass --model",
            )
    model.config.use_cache = False
    return model


def new_from_config(path: Path, kind: Any, name: str, attention: str = "eager") -> nn.Module:
    """The module that the folder's config describes, freshly initialised from torch's generator.

    Raises:
        CheckpointError: transformers cannot build it.
    """
    library = transformers_for(path)
    with quiet(library):
        try:
            config = library.AutoConfig.from_pretrained(
                path, local_files_only=True, trust_remote_code=False
            )
            model = kind.from_config(config, attn_implementation=attention)
        except Exception as error:  # a library's loader: many kinds
            raise unbuildable(path, name, error) from error
    model.config.use_cache = False
    return model


def unbuildable(path: Path, name: str, error: Exception) -> CheckpointError:
    """transformers' own words, in one line."""
    return CheckpointError(
        f"{path}: transformers cannot build {name or 'the model'}: {first_line(error)[:200]}",
        hint="--debug shows the whole message",
    )


@contextlib.contextmanager
def quiet(library: ModuleType) -> Iterator[None]:
    """No progress bar, no log lines and no look at the network meanwhile."""
    logger = logging.getLogger("transformers")
    level, bars = logger.level, library.utils.logging.is_progress_bar_enabled()
    offline = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    logger.setLevel(logging.ERROR)
    library.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if bars:
            library.utils.logging.enable_progress_bar()
        if offline is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = offline
