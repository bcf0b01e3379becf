"""The house rules, read off the code with `ast`: imports go one way, files stay small."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "homotopy_cli"
LAYERS = {
    "errors": set(),
    "records": {"errors"},
    "crossings": set(),
    "linalg": {"errors", "records"},
    "recipe": {"errors"},
    "zoo": {"errors", "recipe"},
    "problems": {"errors", "recipe", "zoo"},
    "curvature": {"linalg", "problems", "records", "errors"},
    "schedulers": {"curvature", "problems", "records", "errors"},
    "integrations": {"training", "schedulers", "problems", "runlog", "records", "errors"},
    "runlog": {"records", "errors"},
    "report": {"runlog", "records", "errors", "crossings"},
}
ALL = {*LAYERS, "training", "_version"}
LAYERS["training"] = ALL - {"training", "report", "integrations"}
LAYERS["cli"] = ALL
THIRD_PARTY = {
    "errors": set(),
    "records": {"numpy"},
    "crossings": set(),
    "linalg": {"torch", "numpy"},
    "recipe": {"yaml", "pydantic"},
    "zoo": {"torch", "numpy", "transformers", "tokenizers", "PIL", "sklearn", "datasets"},
    "problems": {"torch", "numpy", "safetensors", "transformers"},
    "curvature": {"torch", "numpy"},
    "schedulers": {"torch", "numpy", "plotly"},
    "integrations": {"torch", "transformers", "accelerate"},
    "runlog": {"h5py", "numpy"},
    "training": {"torch", "numpy"},
    "report": {"plotly", "numpy"},
    "cli": {"typer", "rich", "numpy", "torch"},
}
# May be absent: imported where they are needed.
EXTRAS = {"transformers", "pytorch_lightning", "tokenizers", "PIL", "sklearn", "datasets"}
FILES = sorted(p for p in PACKAGE.rglob("*.py"))
IDS = [str(p.relative_to(PACKAGE)) for p in FILES]


def layer_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path, *, top_level_only: bool = False):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports in full"
            if node.module == "homotopy_cli":
                yield from ((f"homotopy_cli.{a.name}", node.lineno) for a in node.names)
            else:
                yield node.module, node.lineno


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_imports_go_one_way(path):
    layer = layer_of(path)
    if layer in ("__init__", "__main__", "_version"):
        return  # the lazy public surface and the entry point name every layer by design
    allowed = LAYERS[layer] | {layer}
    for module, line in imports(path):
        if module.startswith("homotopy_cli"):
            target = [*module.split("."), ""][1]
            assert target in allowed | {"_version"}, f"{path.name}:{line}: {layer} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_third_party_stays_in_its_layer(path):
    import sys

    layer = layer_of(path)
    for module, line in imports(path):
        top = module.split(".")[0]
        if top in sys.stdlib_module_names or top == "homotopy_cli":
            continue
        assert top in THIRD_PARTY.get(layer, set()), f"{path.name}:{line}: {layer} imports {top}"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_extras_are_imported_where_they_are_needed(path):
    if layer_of(path) != "integrations":  # whose modules are asked for by name
        tops = {module.split(".")[0] for module, _ in imports(path, top_level_only=True)}
        assert not tops & EXTRAS


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_files_stay_readable(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= 320, f"{path.name} has {lines} lines; one algorithm per file"


@pytest.mark.parametrize("path", [p for p in FILES if layer_of(p) == "cli"], ids=lambda p: p.name)
def test_the_command_line_imports_layers_inside_its_functions(path):
    light = ("homotopy_cli.errors", "homotopy_cli._version", "homotopy_cli.cli")
    for module, line in imports(path, top_level_only=True):
        if module.startswith("homotopy_cli"):
            assert module.startswith(light), f"{path.name}:{line}: import {module} when needed"


def test_package_docstrings_tell_the_architecture():
    for init in PACKAGE.glob("*/__init__.py"):
        tree = ast.parse(init.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), f"{init.parent.name} has no chapter"
        assert len(tree.body) == 1, f"{init.parent.name}/__init__.py holds more than its docstring"
        modules = {path.stem for path in init.parent.glob("*.py")} - {"__init__", "__main__"}
        unnamed = modules - set(re.findall(r"\w+", ast.get_docstring(tree)))
        assert not unnamed, f"{init.parent.name}/__init__.py does not name {sorted(unnamed)}"


def test_test_files_have_names_of_their_own():
    """pytest imports them flat: two of one name, and the second is an error of collection."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
