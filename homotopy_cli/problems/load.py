"""load_problem: from the path of a checkpoint to everything `homotopy probe` measures."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from homotopy_cli.errors import NonFiniteError, ProblemError, first_line
from homotopy_cli.problems.axes import axis_note
from homotopy_cli.problems.batches import cast_floats, read_batches
from homotopy_cli.problems.building import build_module
from homotopy_cli.problems.checkpoint import Checkpoint, load_into, read_checkpoint
from homotopy_cli.problems.chunks import seems_summed, total
from homotopy_cli.problems.criteria import Loss, resolve_loss
from homotopy_cli.problems.from_recipe import probe_batches, recipe_loss
from homotopy_cli.problems.guess import guess_loss
from homotopy_cli.problems.nest import walk
from homotopy_cli.problems.optimizers import OptimizerInfo, optimizer_info
from homotopy_cli.problems.pretrained_text import text_problem
from homotopy_cli.problems.probabilities import applied_twice
from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.sources import Setting, find_setting
from homotopy_cli.zoo.registry import build_data
from homotopy_cli.zoo.text import another_text


@dataclass(frozen=True)
class LoadedProblem:
    """A Problem and where each part of it came from."""

    problem: Problem
    checkpoint: Checkpoint
    model: nn.Module
    loss: Loss
    optimizer_info: OptimizerInfo | None  # None: no optimizer state in the checkpoint

    @property
    def notes(self) -> tuple[str, ...]:
        """What was chosen, guessed or left out, in words."""
        return self.checkpoint.notes


def load_problem(
    path: str | Path,
    *,
    model: str | nn.Module | Callable[..., nn.Module] | None = None,
    model_args: Mapping[str, Any] | Sequence[str] | None = None,
    loss: str | Callable[..., Any] | Loss | None = None,
    batches: Iterable[Any] | str | Path | None = None,
    recipe: Any = None,
    text: str | Path | None = None,
    entry: str | None = None,
    mode: str = "eval",
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    microbatch: int | None = None,
    trust_pickle: bool = False,
    trust_code: bool = False,
) -> LoadedProblem:
    """Read a checkpoint, build its model, load the weights strictly, and fix loss and batches.

    Each part is taken from what is given here, else from `recipe`, else from the recipe inside
    the checkpoint. Nothing but what is named here runs as code.

    Args:
        path: File or folder; see `read_checkpoint`.
        model: A module, a callable that builds one, or "file.py:callable".
        model_args: For the callable: a mapping, or "KEY=VALUE" texts by the recipe's rules.
        loss: See `resolve_loss`; None: the recipe's, else guessed and said in `notes`.
        batches: Files, or batches; the loss is their size-weighted mean.
        recipe: A recipe file, or a LoadedRecipe.
        text: A text file to measure a token model of a recipe on, instead of its own.
        entry: Which set of weights.
        mode, dtype, device, seed, microbatch: See `Problem.from_module`.
        trust_pickle: Let the checkpoint's pickle run code, if reading it needs that.
        trust_code: Run the user code that the recipe *inside the checkpoint* names.

    Raises:
        HomotopyError: The first thing that is wrong, with the next thing to type.
    """
    path = Path(path)
    kind = _dtype(dtype)
    place = _device(device)
    checkpoint = read_checkpoint(path, trust_pickle=trust_pickle, entry=entry)
    whole = model is None and recipe is None and checkpoint.kind == "transformers"
    setting = find_setting(
        checkpoint,
        recipe=recipe,
        needs_model=model is None and checkpoint.module is None and not whole,
        needs_loss=loss is None,
        needs_data=batches is None and not (whole and text is not None),
        text=None if whole else text,
        trust_code=trust_code,
    )
    if setting is not None:
        checkpoint = replace(checkpoint, notes=(*checkpoint.notes, *setting.notes))
    given = None if batches is None else _given(batches)
    data = None if setting is None or (model and given) else _data(setting)
    if kind is None:
        kinds = {t.dtype for t in checkpoint.state.values() if t.is_floating_point()}
        kind = torch.float64 if kinds == {torch.float64} else None
    net = build_module(model, model_args, checkpoint, setting, data, kind)
    if kind is not None:
        net = net.to(kind)  # before the weights: float64 ones must not pass through float32
    if not whole:
        checkpoint = load_into(net, checkpoint)
    elif given is None:
        given, guessed, said = text_problem(path, net, Path(text), seed)
        loss = guessed if loss is None else loss
        checkpoint = replace(checkpoint, notes=(*checkpoint.notes, said))
    net = net.to(place)
    if given is None:
        given = [(setting.words, b) for b in _recipe_batches(setting, data)]
    resolved = _loss(loss, setting, net, data, given)
    problem = Problem.from_module(
        net,
        resolved,
        [batch for _, batch in given],
        dtype=kind,
        device=place,
        mode=mode,
        seed=seed,
        microbatch=microbatch,
        sources=[source for source, _ in given],
    )
    drifts = _check(problem, [source for source, _ in given])
    guessed = f"loss guessed: {resolved.reason}" if resolved.reason else ""
    said = tuple(
        words
        for words in (
            *(guessed, drifts, axis_note(problem)),
            *(applied_twice(problem), seems_summed(problem)),
        )
        if words
    )
    checkpoint = replace(checkpoint, notes=(*checkpoint.notes, *said))
    recipe_spec = None if setting is None else setting.recipe.optimizer
    return LoadedProblem(
        problem,
        checkpoint,
        net,
        resolved,
        optimizer_info(checkpoint.optimizer_state, net, recipe_spec),
    )


def _given(batches: Iterable[Any] | str | Path) -> list[tuple[str, Any]]:
    """Batches from files, or as they are."""
    items = [batches] if isinstance(batches, str | Path) else list(batches)
    found: list[tuple[str, Any]] = []
    for item in items:
        found += read_batches(item) if isinstance(item, str | Path) else [("", item)]
    if not found:
        raise ProblemError("no batch to measure on", hint="--batch FILE.pt or FILE.npz")
    return found


def _data(setting: Setting) -> Any:
    """The recipe's data; another text is read in the tokens that the model learnt."""

    def build(recipe: Any) -> Any:
        dtype = getattr(torch, recipe.dtype)
        return build_data(recipe.data, setting.base_dir, dtype=dtype)

    if setting.replaced is None:
        return build(setting.recipe)
    known = build(setting.replaced).vocabulary
    return another_text(setting.recipe.data, setting.base_dir, known, origin=setting.words)


def _recipe_batches(setting: Setting, data: Any) -> list[Any]:
    found = probe_batches(data, setting.recipe)
    if not found:
        raise ProblemError("the recipe's data have no held-out rows", hint="--set data.holdout=0.1")
    return found


def _loss(
    loss: Any, setting: Setting | None, model: nn.Module, data: Any, given: list[tuple[str, Any]]
) -> Loss:
    """Given, the recipe's, or guessed."""
    if loss is not None:
        return resolve_loss(loss, base_dir=Path.cwd())
    if setting is not None and (setting.recipe.loss is not None or data is not None):
        return recipe_loss(setting.recipe, setting.base_dir, model, data)
    first = next(iter(model.parameters()), torch.zeros(()))
    source, batch = given[0]
    return guess_loss(model, cast_floats(batch, first.dtype, first.device), source=source)


def _check(problem: Problem, sources: Sequence[str]) -> str:
    """The batch fits, the loss is finite and the same again; a warning where it drifts within.

    Three evaluations: two of them while the model is held still, as a probe holds it.
    """
    with problem.measuring():
        value, within = total(problem), None
        if math.isfinite(value):
            within = total(problem)
    if within is None:
        for source, batch in zip(sources, problem.batches, strict=False):
            for name, tensor in walk(batch):
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    n = int((~torch.isfinite(tensor)).sum())
                    where = f" in {name}" if name else ""
                    raise NonFiniteError(
                        f"{source or 'the batch'}: {n} non-finite values{where}",
                        hint="clean the batch; curvature of NaN is NaN",
                    )
        raise NonFiniteError(
            f"the loss is {value} at finite weights",
            hint="try --dtype float64, or an earlier checkpoint",
        )
    again = total(problem)
    if _moved(value, again):
        raise ProblemError(
            f"the loss is {value:.9g}, then {again:.9g}, at the same weights and seed: the model "
            "keeps state outside its buffers, or draws from a generator of its own",
            hint="reset it in the loss, so that every call starts alike",
        )
    if not _moved(value, within):
        return ""
    return (
        f"warning: the loss is {value:.9g}, then {within:.9g} at the next call, at the same "
        "weights and seed: the model counts its calls or keeps other state outside its buffers, "
        "so what follows is of no one function; reset it in the loss"
    )


def _moved(value: float, again: float) -> bool:
    return again != value and not abs(again - value) <= 1e-6 * max(1.0, abs(value))


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    known = {"float32": torch.float32, "float64": torch.float64}
    if dtype not in known:
        raise ProblemError(f"--dtype {dtype}: is not float32 or float64", hint="--dtype float64")
    return known[dtype]


def _device(device: torch.device | str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ProblemError(
            f"--device {device}: {first_line(error)}", hint="--device cpu"
        ) from error
    return place
