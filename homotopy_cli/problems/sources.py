"""Which recipe tells what the checkpoint does not: the one given, or the one inside, with care."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homotopy_cli.errors import CheckpointError, ProblemError, RecipeError, typed
from homotopy_cli.problems.checkpoint import Checkpoint
from homotopy_cli.recipe.datasets import TextData
from homotopy_cli.recipe.load import load_recipe, open_recipe, recipe_from_resolved
from homotopy_cli.recipe.schema import Recipe
from homotopy_cli.recipe.targets import is_user_code
from homotopy_cli.zoo.pretrained import architecture, config_of


@dataclass(frozen=True)
class Setting:
    """A recipe and where its relative paths start."""

    recipe: Recipe
    base_dir: Path
    words: str  # for errors: "the recipe's held-out data"
    replaced: Recipe | None = None  # the recipe before --text replaced its data
    notes: tuple[str, ...] = ()  # where it is not the recipe that the checkpoint was trained with


def find_setting(
    checkpoint: Checkpoint,
    *,
    recipe: Any,
    needs_model: bool,
    needs_loss: bool,
    needs_data: bool,
    text: str | Path | None,
    trust_code: bool,
) -> Setting | None:
    """The recipe to take missing parts from; None where nothing is missing and none is given.

    Raises:
        CheckpointError: Model or data are missing and no recipe tells them, or the recipe inside
            names user code that nobody consented to run; the hint is the command to type.
    """
    path = checkpoint.path
    if recipe is not None:
        loaded = open_recipe(recipe) if isinstance(recipe, str | Path) else recipe
        needs = {"model": needs_model, "loss": needs_loss, "data": needs_data and text is None}
        parts = [part for part, needed in needs.items() if needed]
        setting = Setting(
            loaded.recipe,
            Path(loaded.base_dir),
            "the recipe's held-out data",
            notes=tuple(_differences(loaded.recipe, checkpoint, parts)),
        )
        return _with_text(setting, text)
    if checkpoint.recipe is not None:
        made = recipe_from_resolved(checkpoint.recipe, f"{path}: recipe inside")
        setting = Setting(
            made, checkpoint.recipe_dir or path.absolute().parent, "the recipe's held-out data"
        )
        if not trust_code:
            _refuse_code(setting, checkpoint, needs_model, needs_loss, needs_data)
        return _with_text(setting, text)
    if text is not None:
        _refuse_text(checkpoint)
    missing = [word for word, needed in (("model", needs_model), ("batch", needs_data)) if needed]
    if missing == ["batch"] and checkpoint.kind == "transformers":
        raise CheckpointError(
            f"{path}: a transformers folder ({architecture(checkpoint.extra['config'])}) holds no "
            "data to measure on",
            hint=f"homotopy probe {typed(path)} {_measured_on(path)}",
        )
    if missing:
        needs = needs_model, needs_loss, needs_data
        beside = _in_folder(path, needs_model)
        lacks = "model, loss and data are unknown" if needs_model else "the data are unknown"
        raise CheckpointError(
            f"{path}: {_held(checkpoint)} but no recipe, so {lacks}",
            hint=_of_folder(path) if beside else _command(path, needs_model, needs_loss),
            completion=("", "") if beside else _options(*needs),
        )
    return None


def _measured_on(folder: Path) -> str:
    """What to measure a transformers folder on: a text needs the folder's tokenizer."""
    names = ("tokenizer*", "vocab*", "*.model", "*.spm", "spiece*", "merges.txt", "*.tiktoken")
    if any(next(folder.glob(name), None) for name in names):
        return "--text FILE.txt   (or --batch FILE.pt)"
    return "--batch tokens.pt --loss next_token   (no tokenizer lies there for --text)"


def _held(checkpoint: Checkpoint) -> str:
    """What was read, and from which place in the file; other sets of weights there are named."""
    n, total = len(checkpoint.state), sum(t.numel() for t in checkpoint.state.values())
    entry = f' in "{checkpoint.entry}"' if checkpoint.entry else ""
    held = f"holds {n} tensor{'s' if n > 1 else ''}{entry} ({checkpoint.kind}, {total:,} numbers"
    others = [f'"{name}"' for name in checkpoint.entries if name not in ("", checkpoint.entry)]
    more = f" and {len(others) - 4} more" if len(others) > 4 else ""
    also = f"; --entry NAME takes {', '.join(others[:4])}{more}" if others else ""
    return f"{held}{also})"


def _command(path: Path, needs_model: bool, needs_loss: bool) -> str:
    """What to type for a checkpoint that tells nothing about itself."""
    told = "" if needs_model else " --model MODEL"
    told += "" if needs_loss else " --loss LOSS"
    added, remark = _options(needs_model, needs_loss, True)
    return f"homotopy probe {typed(path)}{told} {added}   {remark}"


def _of_folder(path: Path) -> str:
    """What to type for weights that lie in a transformers folder."""
    folder = typed(path.parent)
    return f"homotopy probe {folder} --text FILE.txt   (the transformers folder it lies in)"


def _in_folder(path: Path, needs_model: bool) -> bool:
    """Weights beside a transformers configuration: the folder tells what the model is."""
    return needs_model and path.is_file() and config_of(path.parent) is not None


def _options(needs_model: bool, needs_loss: bool, needs_data: bool) -> tuple[str, str]:
    """The options that a command lacks, and what would do instead."""
    lacks = (
        ("--model model.py:build", needs_model),
        ("--loss model.py:loss", needs_loss),
        ("--batch batch.pt", needs_data),
    )
    return " ".join(
        option for option, needed in lacks if needed
    ), "(or --recipe recipes/YOURS.yaml)"


def _refuse_code(
    setting: Setting, checkpoint: Checkpoint, model: bool, loss: bool, data: bool
) -> None:
    """A checkpoint from elsewhere must not choose which file of this machine runs."""
    recipe = setting.recipe
    named = [
        spec if isinstance(spec, str) else spec.name
        for spec, needed in ((recipe.model, model), (recipe.loss, loss), (recipe.data, data))
        if needed and is_user_code(spec)
    ]
    if not named:
        return
    path = checkpoint.path
    file = _recipe_file(checkpoint)
    way = f"--recipe {typed(file)}" if file else "--trust-code   (where you trust that code)"
    raise CheckpointError(
        f"{path}: the recipe inside names user code ({', '.join(named)}), which a checkpoint "
        "cannot make run",
        hint=f"homotopy probe {typed(path)} {way}",
    )


def _recipe_file(checkpoint: Checkpoint) -> str:
    """The file with this recipe's text in its folder; "" where it is gone, or means another.

    A run's --set and --profile are in the recipe inside, and not in the file.
    """
    folder, source = checkpoint.recipe_dir, checkpoint.recipe_source
    if folder is not None and source:
        for file in sorted(folder.glob("*.y*ml")):
            try:
                if file.read_text(encoding="utf-8-sig") != source:
                    continue
                loaded = load_recipe(file)
            except (OSError, UnicodeDecodeError, RecipeError):
                continue
            same = not _differences(loaded.recipe, checkpoint, ["model", "loss", "data"])
            return _short(file) if same else ""
    return ""


def _differences(recipe: Recipe, checkpoint: Checkpoint, parts: list[str]) -> list[str]:
    """One warning where the parts that a recipe tells are not those of the recipe inside."""
    if checkpoint.recipe is None:
        return []
    try:
        inside = recipe_from_resolved(checkpoint.recipe).resolved()
    except RecipeError:
        return []
    given, found = recipe.resolved(), []
    for part in parts:
        here, there = _told(given.get(part)), _told(inside.get(part))
        if here != there:
            found.append(f"{part} {_shown(here, there)}, trained with {_shown(there, here)}")
    if not found:
        return []
    told = "; ".join(found)
    return [f"warning: the recipe given is not the one this checkpoint was trained with: {told}"]


def _told(value: Any) -> Any:
    """`{name: X}` and its short form X alike."""
    alone = isinstance(value, dict) and set(value) == {"name"}
    return value["name"] if alone else value


def _shown(value: Any, other: Any) -> str:
    """A section in one line; of two of the same name only the settings that differ."""
    if value is None:
        return "by default"
    if not isinstance(value, dict):
        return str(value)
    if isinstance(other, dict) and other.get("name") == value["name"]:
        value = {k: v for k, v in value.items() if k == "name" or other.get(k) != v}
    settings = ", ".join(f"{k} {v}" for k, v in value.items() if k != "name")
    return f"{value['name']} ({settings})" if settings else str(value["name"])


def _short(file: Path) -> str:
    """Relative to the current folder where that is shorter to type."""
    resolved = file.resolve()
    try:
        return str(resolved.relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(resolved)


def _with_text(setting: Setting, text: str | Path | None) -> Setting:
    """The same recipe over another text. Its characters must be those the model knows."""
    if text is None:
        return setting
    data = setting.recipe.data
    if not isinstance(data, TextData):
        raise ProblemError(
            f"--text {text}: the recipe's data are not text",
            hint="--batch FILE.pt measures any model on any batch",
        )
    changed = data.model_copy(
        update={"path": str(Path(text).absolute()), "source": None, "holdout": 0.0}
    )
    recipe = setting.recipe.model_copy(update={"data": changed})
    return Setting(recipe, setting.base_dir, f"--text {text}", setting.recipe, setting.notes)


def _refuse_text(checkpoint: Checkpoint) -> None:
    raise ProblemError(
        f"--text: {checkpoint.path} holds no recipe of a token model, so nothing tells how to "
        "make tokens of a text",
        hint="--batch tokens.pt with --loss next_token",
    )
