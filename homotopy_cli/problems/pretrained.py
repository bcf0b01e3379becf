"""transformers folders: config.json beside weights -> the module, loaded whole or not at all.

Needs the extra `hf`. The folder's weights were read and checked before; the class is the one its
config names, transformers' own loader renames and fills, and what it reports as missing,
unexpected or of another shape is an error here.
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
from torch import Tensor, nn

from homotopy_cli.errors import CheckpointError, ProblemError
from homotopy_cli.problems.mismatch import refuse_nonfinite

CONFIG = "config.json"


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


def build_pretrained(
    path: Path,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The module with its weights, attention by plain products (`eager`), no cache.

    Args:
        path: The folder.
        config: Of `config_of`.
        state: The weights as the files hold them; refused where one is not finite.
        dtype: Of the parameters; None: float32.

    Raises:
        CheckpointError: transformers has no such class, or tensors are missing, unexpected or of
            another shape.
    """
    library = transformers_for(path)
    name = architecture(config)
    kind = getattr(library, name, None) if name else library.AutoModel
    if kind is None or (config.get("auto_map") and not name):
        raise CheckpointError(
            f"{path}: its config names {name or 'remote code'}, which transformers "
            f"{library.__version__} does not have (code from a checkpoint is not run)",
            hint=f"homotopy probe {path} --model FILE.py:CALLABLE --loss ... --batch ...",
        )
    with quiet(library), torch.random.fork_rng(devices=[]):
        try:
            model, report = kind.from_pretrained(
                path,
                local_files_only=True,
                trust_remote_code=False,
                dtype=dtype or torch.float32,
                attn_implementation="eager",
                output_loading_info=True,
            )
        except Exception as error:  # a library's loader: many kinds
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"{path}: transformers cannot build {name or 'the model'}: {said[:200]}",
                hint="--debug shows the whole message",
            ) from error
    for word in ("missing", "mismatched", "unexpected"):
        left = sorted(str(k) for k in report.get(f"{word}_keys") or ())
        if left:
            raise CheckpointError(
                f"{path}: {name}: {len(left)} tensors {_WORDS[word]}: {', '.join(left[:3])}",
                hint="the weights are of another architecture than config.json says; fix "
                "`architectures` there, or pass --model",
            )
    refuse_nonfinite(path, model, dict(state))
    model.config.use_cache = False
    return model.eval()


_WORDS = {
    "missing": "are not in the folder's weights",
    "mismatched": "have another shape",
    "unexpected": "are in the weights but not in the model",
}


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
