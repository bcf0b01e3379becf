"""Outputs that would destroy an input or cannot be written: refused before any work."""

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from homotopy_cli.cli.writing import in_place
from homotopy_cli.errors import CheckpointError, HomotopyError, typed

Inputs = Iterable[tuple[str, str | os.PathLike[str] | None]]  # (what it is, file or folder)

# Suffixes that an output of each kind may replace, unlike those of other kinds and FOREIGN.
OWN = {
    "JSON": (".json",),
    "HTML": (".html", ".htm"),
    "Markdown": (".md", ".markdown", ".txt"),
    "XML": (".xml",),
    "HDF5": (".h5", ".hdf5"),
}
FOREIGN = re.compile(
    r"\.(pt|pth|ckpt|bin|safetensors|distcp|npz|npy|pkl|pickle|zip|tar|gz|onnx|gguf|journal"
    r"|py|ipynb|sh|ya?ml|toml|cfg|ini|csv|tsv|txt|jsonl|parquet|arrow|png|jpg|pdf)"
)
WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors", ".bin")
_HEAD = 512  # bytes in which a binary file shows a zero


@dataclass(frozen=True)
class Output:
    """A file that an option asks for."""

    option: str  # --json
    path: Path | str | None  # None: not asked for; "-": stdout
    kind: str  # a key of OWN
    later: bool = False  # its folder is made on the way

    @property
    def file(self) -> Path | None:
        """The file, None for stdout and for what was not asked for."""
        return None if self.path is None or str(self.path) == "-" else Path(self.path)


def check_outputs(outputs: Sequence[Output], inputs: Inputs) -> None:
    """Refuse outputs that cannot be written, or that would destroy something; touches nothing.

    Args:
        outputs: All of a command's.
        inputs: All that the command reads; a None is left out.

    Raises:
        HomotopyError: Two outputs share stdout or a file; an output is an input, a folder, lies in
            no folder or in one that is read, or is a file that is evidently of another kind.
    """
    _refuse_shared(outputs)
    known = list(inputs)
    for output in outputs:
        file = output.file
        if file is None:
            continue
        refuse_input(output.option, file, known)
        _refuse_within(output.option, file, known)
        if file.is_dir():
            name = f"NAME{OWN[output.kind][0]}"
            raise HomotopyError(
                f"{output.option} {file}: is a folder, not a file",
                hint=f"{output.option} {typed(file / name)}",
            )
        if not output.later and not _real(file).parent.is_dir():
            raise HomotopyError(
                f"{file}: its folder does not exist", hint=f"mkdir -p {typed(file.parent)}"
            )
        if file.is_file():
            _refuse_foreign(output, file)


def _refuse_shared(outputs: Sequence[Output]) -> None:
    piped = [output for output in outputs if str(output.path) == "-"]
    if len(piped) > 1:
        first, second = piped[0].option, piped[1].option
        raise HomotopyError(
            f"{first} - and {second} -: stdout takes one of them", hint=f"{second} FILE"
        )
    seen: list[tuple[Output, Path]] = []
    for output in outputs:
        file = output.file
        if file is None or in_place(file):
            continue
        for other, its in seen:
            if _same(file, its):
                raise HomotopyError(
                    f"{other.option} and {output.option} both write {file}",
                    hint=f"give {output.option} another file",
                )
        seen.append((output, file))


def refuse_input(option: str, file: Path, inputs: Inputs) -> None:
    """Raise HomotopyError where `file`, which `option` writes, is one of the inputs."""
    for what, path in inputs:
        if path is not None and _same(file, Path(path)):
            raise HomotopyError(
                f"{option} {file}: is {what}, which this command reads",
                hint=f"give {option} another file",
            )


def _refuse_within(option: str, file: Path, inputs: Inputs) -> None:
    """A folder that is read, a checkpoint's say, is more than one file."""
    for what, path in inputs:
        if path is None or not file.is_file() or not Path(path).is_dir():
            continue
        if _real(Path(path)) in _real(file).parents:
            raise HomotopyError(
                f"{option} {file}: is there already, in {what}, which this command reads",
                hint=f"give {option} a file outside {path}",
            )


def _refuse_foreign(output: Output, file: Path) -> None:
    """The name says what a file is; where it says nothing, zeros say that it is no text."""
    own = OWN[output.kind]
    suffix = file.suffix.lower()
    known = FOREIGN.fullmatch(suffix) or any(suffix in kind for kind in OWN.values())
    foreign = suffix not in own and bool(known)
    with suppress(OSError), file.open("rb") as stream:
        foreign |= output.kind != "HDF5" and b"\0" in stream.read(_HEAD)
    if foreign:
        raise HomotopyError(
            f"{output.option} {file}: is there already and is no {output.kind}, so it is not "
            "replaced",
            hint=f"{output.option} {typed(file.with_suffix(own[0]))}, or remove that file first",
        )
    if not os.access(file, os.W_OK):
        raise HomotopyError(
            f"{output.option} {file}: no permission to write it",
            hint=f"give {output.option} another file",
        )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _same(one: Path, other: Path) -> bool:
    """One file under two names, links included."""
    with suppress(OSError):
        return os.path.samefile(one, other)
    return _real(one) == _real(other)


def refuse_absent(checkpoint: Path, batches: Sequence[Path]) -> None:
    """Raise CheckpointError where nothing is there, proposing checkpoints of a similar name."""
    if os.path.lexists(checkpoint):
        return
    folder, others = checkpoint.parent, {_real(batch) for batch in batches}
    stems: dict[str, Path] = {}
    with suppress(OSError):
        for file in sorted(folder.iterdir()):
            if file.suffix in WEIGHTS and _real(file) not in others:
                stems.setdefault(file.stem, file)
    near = [typed(stems[stem]) for stem in get_close_matches(checkpoint.stem, stems, n=3)]
    raise CheckpointError(
        f"{checkpoint}: no such file; looked in {folder.absolute()}",
        hint=f"did you mean {' or '.join(near)}?" if near else "check the path",
    )


def target_files(**targets: Any) -> Inputs:
    """The files of options that name `file.py:callable`."""
    from homotopy_cli.recipe.named_files import file_of_target

    for option, text in targets.items():
        if isinstance(text, str):
            yield f"the file of --{option}", file_of_target(text, Path.cwd())


def recipe_files(recipe: Any) -> Inputs:
    """A LoadedRecipe's own file and what its `model`, `loss` and `data` name.

    User code has keys of its own: any text that is the path of a file counts.
    """
    yield "the recipe", recipe.path
    settings = recipe.recipe.resolved()
    for section in ("model", "loss", "data"):
        for key, text in _texts(section, settings.get(section)):
            place = recipe.base_dir / Path(text.rpartition(":")[0] or text).expanduser()
            with suppress(OSError, ValueError):  # a text may be anything
                if place.is_file() or (key == "path" and place.is_dir()):
                    yield f"the recipe's {section}", place


def _texts(key: str, value: Any) -> Iterable[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for inner, item in value.items():
            yield from _texts(inner, item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(key, item)
