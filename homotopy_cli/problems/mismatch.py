"""Weights that do not fit a model: the errors, with both sides shown."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from homotopy_cli.errors import CheckpointError
from homotopy_cli.problems.wrappers import clean_name

Shape = tuple[int, ...]
_SHOWN = 4


def misshapen(
    path: Path,
    names: Sequence[str],
    state: Mapping[str, Tensor],
    shapes: Mapping[str, Shape],
    better: str = "",
) -> CheckpointError:
    """Names match, shapes do not; empty tensors point to a sharded run."""
    empty = [name for name in names if state[name].numel() == 0]
    if len(empty) > 1 or len(empty) == len(state):  # one alone may be a layer without a bias
        return CheckpointError(
            f"{path}: {_listed([_quoted(n) for n in empty], 8)} "
            f"{'is' if len(empty) == 1 else 'are'} empty (shape [0]): probably one shard of a "
            "ZeRO-3 or FSDP run (sharding), not the whole weights",
            hint="gather them first: python zero_to_fp32.py CHECKPOINT_FOLDER whole.pt",
        )
    shown = [
        f"{_quoted(n)} ({dims(shapes[n])} wanted, {dims(tuple(state[n].shape))} found)"
        for n in names
    ]
    return CheckpointError(
        f"{path}: shapes differ from the model's: {_listed(shown)}", hint=_hint(better)
    )


def misnamed(
    path: Path,
    shapes: Mapping[str, Shape],
    missing: Sequence[str],
    unexpected: Sequence[str],
    state: Mapping[str, Tensor],
    better: str = "",
) -> CheckpointError:
    """Names differ: both sides with their shapes, and a renaming where shapes leave one."""
    gone = [f"{_quoted(n)} {dims(shapes[n])}" for n in missing]
    strange = [f"{_quoted(n)} {dims(tuple(state[n].shape))}" for n in unexpected]
    sides = []
    if gone:
        sides.append(f"{len(gone)} missing ({_listed(gone)})")
    if strange:
        sides.append(f"{len(strange)} unexpected ({_listed(strange)})")
    pairs = _renaming(shapes, missing, unexpected, state)
    hint = _hint(better)
    if pairs and not better:
        old, new = pairs[0]
        more = f", and {len(pairs) - 1} more alike" if len(pairs) > 1 else ""
        hint = f"by shape, {_quoted(old)} would be {_quoted(new)}{more}: rename and save again"
    return CheckpointError(f"{path}: names differ from the model's: {'; '.join(sides)}", hint=hint)


def refuse_nonfinite(path: Path, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise for NaN or infinity in a parameter, or NaN in a buffer (masks may hold -inf)."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    found = []
    for name, tensor in state.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        n_nan = int(torch.isnan(tensor).sum())
        n_inf = int(torch.isinf(tensor).sum()) if name in parameters else 0
        if n_nan or n_inf:
            counts = [f"{n} {word}" for n, word in ((n_nan, "NaN"), (n_inf, "Inf")) if n]
            found.append(f"{_quoted(clean_name(name))} ({', '.join(counts)})")
    if found:
        raise CheckpointError(
            f"{path}: non-finite values in {_listed(found)}",
            hint="the run had diverged: probe an earlier checkpoint",
        )


def refuse_untied(path: Path, names: tuple[str, str] | None) -> None:
    """Raise where the file holds two tensors for what is one parameter in the model."""
    if names is not None:
        raise CheckpointError(
            f"{path}: {_quoted(names[0])} and {_quoted(names[1])} are one parameter in the model "
            "but differ in the file",
            hint="--model TARGET, or --model-arg KEY=VALUE, for a model that does not tie them",
        )


def dims(shape: Shape) -> str:
    """(8, 5) as 8x5; () as scalar."""
    return "x".join(str(n) for n in shape) or "scalar"


def refusal(error: BaseException) -> str:
    """The first two lines of what load_state_dict says: the second has the names."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__


def _renaming(
    shapes: Mapping[str, Shape],
    missing: Sequence[str],
    unexpected: Sequence[str],
    state: Mapping[str, Tensor],
) -> list[tuple[str, str]]:
    """Pairs old -> new where shapes, in order, match one to one."""
    if len(missing) != len(unexpected):
        return []
    pairs = list(zip(unexpected, missing, strict=True))
    same = all(tuple(state[old].shape) == shapes[new] for old, new in pairs)
    return pairs if same else []


def _quoted(name: str) -> str:
    return f'"{name}"'


def _listed(words: Sequence[str], limit: int = _SHOWN) -> str:
    more = len(words) - limit
    return ", ".join(words[:limit]) + (f", and {more} more" if more > 0 else "")


def _hint(better: str) -> str:
    if better:
        return f"--entry {better} fits this model"
    return "--model TARGET, or --model-arg KEY=VALUE, for the architecture that was saved"
