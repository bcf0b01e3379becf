"""A checkpoint that is a transformers folder -> its module, loaded whole or not at all.

Needs the extra `hf`. The folder's weights were read and checked before; the class is the one its
config names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from homotopy_cli.errors import CheckpointError, typed
from homotopy_cli.problems.mismatch import refuse_nonfinite
from homotopy_cli.zoo.pretrained import architecture, load_folder, transformers_for


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
            hint=f"homotopy probe {typed(path)} --model FILE.py:CALLABLE --loss ... --batch ...",
        )
    model = load_folder(path, kind, name, dtype or torch.float32)
    refuse_nonfinite(path, model, dict(state))
    return model.eval()
