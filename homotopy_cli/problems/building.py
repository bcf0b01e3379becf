"""The module of a checkpoint: given, built by a target, unpickled with trust, or the recipe's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from homotopy_cli.errors import HomotopyError, ProblemError, first_line
from homotopy_cli.problems.checkpoint import Checkpoint
from homotopy_cli.problems.pretrained import build_pretrained
from homotopy_cli.problems.sources import Setting
from homotopy_cli.problems.wrappers import unwrap
from homotopy_cli.recipe.parsing import parse_value
from homotopy_cli.recipe.targets import load_target
from homotopy_cli.zoo.registry import build_model


def build_module(
    model: Any,
    model_args: Mapping[str, Any] | Sequence[str] | None,
    checkpoint: Checkpoint,
    setting: Setting | None,
    data: Any,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The module: given, built by a target, unpickled, a transformers folder's, the recipe's.

    A transformers folder's comes with its weights loaded.
    """
    arguments = _arguments(model_args)
    if isinstance(model, nn.Module):
        return unwrap(model)
    if model is None and arguments and checkpoint.module is None and setting is None:
        raise ProblemError("--model-arg without --model", hint="--model FILE.py:CALLABLE")
    if model is None and checkpoint.module is not None:
        return unwrap(checkpoint.module)
    if model is None and checkpoint.kind == "transformers" and setting is None:
        config = checkpoint.extra["config"]
        return build_pretrained(checkpoint.path, config, checkpoint.state, dtype)
    if model is None:
        assert setting is not None  # find_setting raises where both are missing
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.recipe.seed)
            return build_model(setting.recipe.model, data.info, base_dir=setting.base_dir)
    name = model if isinstance(model, str) else getattr(model, "__name__", "model")
    if isinstance(model, str):
        model = load_target(model, Path.cwd())
    if isinstance(model, nn.Module):
        return unwrap(model)
    if not callable(model):
        raise ProblemError(
            f"--model {name}: is a {type(model).__name__}, not a callable",
            hint="name a function or class that returns the module",
        )
    try:
        with torch.random.fork_rng(devices=[]):
            made = model(**arguments)
    except HomotopyError:
        raise
    except Exception as error:  # user code: anything may come
        raise ProblemError(
            f"--model {name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())}): "
            f"{first_line(error, named=True)}",
            hint="its arguments are given by --model-arg KEY=VALUE; --debug shows the traceback",
        ) from error
    if not isinstance(made, nn.Module):
        raise ProblemError(
            f"--model {name}: returned {type(made).__name__}, not a torch.nn.Module",
            hint="the callable builds and returns the model",
        )
    return unwrap(made)


def _arguments(given: Mapping[str, Any] | Sequence[str] | None) -> dict[str, Any]:
    """KEY=VALUE texts as keyword arguments; values are read as in a recipe."""
    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    found: dict[str, Any] = {}
    for argument in given:
        key, equals, value = argument.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier():
            raise ProblemError(
                f"--model-arg {argument}: is not KEY=VALUE", hint="--model-arg layers=6"
            )
        parsed, _, faults = parse_value(value, f"--model-arg {argument}")
        if faults:
            raise ProblemError(faults[0].message, hint=faults[0].hint)
        found[key] = parsed
    return found
