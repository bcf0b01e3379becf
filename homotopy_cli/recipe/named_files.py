"""The files that a recipe names: where they should be, and which of them are not there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homotopy_cli.recipe.datasets import DATA_SPECS
from homotopy_cli.recipe.document import Document
from homotopy_cli.recipe.models import MODEL_SPECS
from homotopy_cli.recipe.values import closest_file

# What to do when nothing lies there, for the kinds of data that more than the key must be told of.
HOW = {
    "npz": "numpy.savez('data.npz', x=x, y=y) writes one; --set data.path=FILE.npz names it",
    "text": "any UTF-8 text will do: --set data.path=FILE.txt",
    "cifar10": "get cifar-10-binary.tar.gz from its author's page, unpack it, "
    "--set data.path=FOLDER",
    "image_folder": "put images at CLASS/NAME.png, or at train/CLASS/NAME.png and "
    "val/CLASS/NAME.png; --set data.path=FOLDER names the folder",
    "hf_dataset": "dataset.save_to_disk(FOLDER) writes one",
}
_NOUNS = {"npz": "data file", "text": "data file", "hf": "transformers folder"}


@dataclass(frozen=True)
class NamedFile:
    """A file or folder that a setting names."""

    key: tuple[str, ...]  # the setting
    text: str  # as the recipe has it
    path: Path
    noun: str = ""  # what should lie there; "" = a file of the user's code
    how: str = ""  # where to get it


def file_of_target(text: str, base_dir: Path) -> Path | None:
    """The file of `file.py:callable`; None for `package.module:callable`."""
    location, colon, _ = text.rpartition(":")
    if not colon or not (location.endswith(".py") or "/" in location or "\\" in location):
        return None
    return base_dir / Path(location).expanduser()


def named_files(recipe: Mapping[str, Any], base_dir: Path) -> Iterator[NamedFile]:
    """Every file that `model`, `loss` and `data` of a recipe need, valid or not.

    Args:
        recipe: Plain values, as YAML has them.
        base_dir: Where relative paths start.
    """
    for section, specs in (("model", MODEL_SPECS), ("loss", {}), ("data", DATA_SPECS)):
        value = recipe.get(section)
        if isinstance(value, str) and section == "data" and value.lower().endswith(".npz"):
            yield _found((section,), value, base_dir, "npz")
            continue
        named = isinstance(value, dict)
        name, key = (value.get("name"), (section, "name")) if named else (value, (section,))
        if not isinstance(name, str):
            continue
        code = file_of_target(name, base_dir)
        if code is not None:
            yield NamedFile(key, name, code)
        path = value.get("path") if named else None
        if name in specs and isinstance(path, str) and path.strip():
            yield _found((section, "path"), path, base_dir, name)


def add_missing(document: Document, base_dir: Path) -> None:
    """Add a fault for every named file that does not exist."""
    for named in named_files(document.data, base_dir):
        if named.path.exists():
            continue
        folder = named.path.parent
        place = f"looked in {folder}" + ("" if folder.is_dir() else ", which does not exist")
        beside = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        if named.noun:
            what = f"{named.text}: no such {named.noun}; {place}"
            hint = named.how or f"--set {'.'.join(named.key)}=PATH"
        else:
            what = f"{named.text}: no file {named.path.name}; {place}"
            hint = "paths start at the recipe's folder"
            beside = [name for name in beside if name.endswith(".py")]
        near = closest_file(named.path.name, beside)
        document.add_fault(named.key, what, f"did you mean {near!r}?" if near else hint)


def _found(key: tuple[str, ...], text: str, base_dir: Path, kind: str) -> NamedFile:
    noun = _NOUNS.get(kind, "data folder")
    return NamedFile(key, text, base_dir / Path(text).expanduser(), noun, HOW.get(kind, ""))
