"""User code by name: `file.py:callable` or `package.module:callable`."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from homotopy_cli.errors import RecipeError, first_line
from homotopy_cli.recipe.values import closest, closest_file


def is_user_code(spec: Any) -> bool:
    """Whether a recipe's `model`, `loss`, `data` or `optimizer` runs code of the user's."""
    name = spec if isinstance(spec, str) else getattr(spec, "name", None)
    return isinstance(name, str) and ":" in name


def load_target(text: str, base_dir: str | Path | None = None) -> Any:
    """The object that `text` names.

    A file is loaded as a module of its own, under a private name, so that two recipes'
    `model.py` never meet; while it loads, its folder is importable, so `import sibling`
    works. Loading the same unchanged file again returns the same module.

    Args:
        text: `file.py:name` or `package.module:name`; `name` may have dots.
        base_dir: Where a relative file starts, and where packages are looked for as well.

    Raises:
        RecipeError: No such file, module or name (with what was looked for and where), or
            the code failed while loading.
    """
    base = Path(base_dir) if base_dir is not None else Path.cwd()
    location, colon, name = text.rpartition(":")
    if not colon or not location or not name:
        raise RecipeError(
            f"{text!r} is not a target", hint="file.py:callable, or package.module:callable"
        )
    if location.endswith(".py") or "/" in location or "\\" in location:
        module = _from_file(text, location, base)
    else:
        module = _from_package(text, location, base)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = [word for word in vars(module) if not word.startswith("_")]
            near = closest(part, names)
            hint = (
                f"did you mean {near!r}?" if near else f"it defines {', '.join(names) or 'nothing'}"
            )
            raise RecipeError(f"{text}: {location} has no {part!r}", hint=hint)
        found = getattr(found, part)
    return found


def _from_file(text: str, location: str, base: Path) -> ModuleType:
    path = Path(location).expanduser()
    path = path if path.is_absolute() else base / path
    if not path.is_file():
        near = closest_file(path.name, [p.name for p in path.parent.glob("*.py")])
        here = base.resolve() == Path.cwd()
        start = "the current folder" if here else "the recipe's folder"
        hint = f"did you mean {near!r}?" if near else f"paths start at {start}"
        raise RecipeError(f"{text}: no file {path.name}; looked in {path.parent}", hint=hint)
    path = path.resolve()
    source = path.read_bytes()
    digest = hashlib.sha256(str(path).encode() + b"\0" + source).hexdigest()[:16]
    private = f"_homotopy_target_{path.stem}_{digest}"
    if private in sys.modules:
        return sys.modules[private]
    spec = importlib.util.spec_from_file_location(private, path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{text}: {path.name} is not a Python file", hint="name a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module  # dataclasses and pickle look their module up by name
    try:
        with _importable(path.parent):
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[private]
        raise _failed(text, error, path) from error
    return module


def _from_package(text: str, location: str, base: Path) -> ModuleType:
    with _importable(base):
        try:
            return importlib.import_module(location)
        except ModuleNotFoundError as error:
            top = location.split(".")[0]
            if error.name is not None and (location + ".").startswith(error.name + "."):
                hint = f"pip install {top}, or file.py:callable for a file"
                if (base / f"{location}.py").is_file():
                    hint = f"{location}.py:{text.rpartition(':')[2]}"
                raise RecipeError(
                    f"{text}: no module {error.name!r}; looked in {base} and in Python's path",
                    hint=hint,
                ) from error
            raise _failed(text, error, None) from error
        except Exception as error:
            raise _failed(text, error, None) from error


def _failed(text: str, error: Exception, path: Path | None) -> RecipeError:
    """The user's own mistake, with the line of it."""
    line = ""
    trace = error.__traceback__
    while trace is not None:
        if path is not None and trace.tb_frame.f_code.co_filename == str(path):
            line = f" in line {trace.tb_lineno}"
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.lineno:
        line = f" in line {error.lineno}"
    return RecipeError(
        f"{text}: loading failed{line}: {first_line(error, named=True)}",
        hint="--debug shows the whole traceback",
    )


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """`folder` first on the import path, for the time of the block."""
    entry = str(folder)
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)
