"""`--sweep a.b=1,2 --seeds 3`: a grid of settings as a list of cells, each with a file name."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from homotopy_cli.errors import RecipeError

PROFILE = "profile"  # sweeps over the recipe's profiles instead of a key
_LONGEST = 100  # characters of a cell's name
MOST = 10_000  # cells: beyond that it is a slip of the keyboard


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    name: str  # "lr=1e-3_seed=2": of its log, without the suffix
    settings: tuple[tuple[str, str], ...]  # (key, value as typed), without the seed
    seed: int | None  # None: the recipe's own

    @property
    def overrides(self) -> tuple[str, ...]:
        """`--set` arguments."""
        made = [f"{key}={value}" for key, value in self.settings if key != PROFILE]
        return (*made, *([f"seed={self.seed}"] if self.seed is not None else []))

    @property
    def profiles(self) -> tuple[str, ...]:
        """Profiles of the recipe, applied after those of `--profile`."""
        return tuple(value for key, value in self.settings if key == PROFILE)


def cells(sweeps: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Every combination; seeds vary fastest, so that one arm is whole before the next begins.

    Args:
        sweeps: `KEY=V1,V2,...` texts; a comma inside brackets, braces or quotes splits nothing.
        seeds: Of each combination; empty: the recipe's own.

    Raises:
        RecipeError: An argument without values, a key twice, or too many cells.
    """
    axes = [_axis(sweep) for sweep in sweeps]
    keys = [key for key, _ in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise RecipeError(f"--sweep {key}: is given twice", hint=f"--sweep {key}=A,B,C")
    n = max(1, len(seeds))
    for _, values in axes:
        n *= len(values)
    if n > MOST:
        raise RecipeError(f"--sweep: {n} runs are more than {MOST}", hint="fewer values")
    short = short_names(keys)
    found, taken = [], set()
    for values in itertools.product(*(values for _, values in axes)):
        for seed in seeds or (None,):
            parts = [f"{short[key]}={value}" for key, value in zip(keys, values, strict=True)]
            parts += [f"seed={seed}"] if seed is not None else []
            name = _file_name("_".join(parts), taken)
            found.append(Cell(name, tuple(zip(keys, values, strict=True)), seed))
    return found


def parse_seeds(text: str | None, first: int) -> list[int]:
    """`3` -> three seeds from `first` on; `1,5,9` -> these; None -> none.

    Raises:
        RecipeError: Neither.
    """
    if text is None:
        return []
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() for word in words) or words == ["0"]:
        raise RecipeError(f"--seeds {text}: is no count and no list", hint="--seeds 3 or 1,2,3")
    numbers = [int(word) for word in words]
    if len(numbers) > 1:
        if len(set(numbers)) < len(numbers):
            raise RecipeError(f"--seeds {text}: a seed is given twice", hint="--seeds 1,2,3")
        return numbers
    return list(range(first, first + numbers[0]))


def _axis(sweep: str) -> tuple[str, list[str]]:
    key, equals, text = sweep.partition("=")
    key = key.strip()
    values = split_values(text)
    if not equals or not key or not values or not all(values):
        raise RecipeError(
            f"--sweep {sweep}: is not KEY=VALUE,VALUE,...",
            hint="--sweep optimizer.lr=1e-4,1e-3,1e-2",
        )
    if len(set(values)) < len(values):
        raise RecipeError(f"--sweep {sweep}: a value is given twice", hint="give each value once")
    return key, values


def split_values(text: str) -> list[str]:
    """Split at the commas that stand outside of brackets, braces and quotes."""
    parts, depth, quote, at = [], 0, "", 0
    for i, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[{(":
            depth += 1
        elif character in ")}]":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[at:i].strip())
            at = i + 1
    return [*parts, text[at:].strip()]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key where that tells them apart."""
    last = [key.rpartition(".")[2] for key in keys]
    return {k: s if last.count(s) == 1 else k for k, s in zip(keys, last, strict=True)}


def _file_name(text: str, taken: set[str]) -> str:
    """A name that every file system takes, unlike those before it."""
    name = re.sub(r"[^A-Za-z0-9_.=+-]+", "_", text).strip("_") or "run"
    name = name[:_LONGEST]
    made, n = name, 2
    while made in taken:
        made, n = f"{name}~{n}", n + 1
    taken.add(made)
    return made
