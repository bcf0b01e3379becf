"""User code by name: found, isolated, and explained when it is not there."""

import sys

import pytest

from homotopy_cli.errors import RecipeError
from homotopy_cli.recipe.models import UserModel
from homotopy_cli.recipe.targets import is_user_code, load_target


def write(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")


def refusal(text, folder):
    with pytest.raises(RecipeError) as caught:
        load_target(text, folder)
    assert "\n" not in caught.value.message
    return caught.value


def test_a_file_is_loaded_with_its_siblings(tmp_path):
    write(tmp_path, "sibling_of_target.py", "VALUE = 7\n")
    write(
        tmp_path,
        "model.py",
        "import sibling_of_target\ndef build(): return sibling_of_target.VALUE\n",
    )
    before = list(sys.path)
    assert load_target("model.py:build", tmp_path)() == 7
    assert sys.path == before


def test_two_files_of_one_name_do_not_meet(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write(tmp_path / name, "model.py", f"WHO = {name!r}\n")
    assert load_target("model.py:WHO", tmp_path / "a") == "a"
    assert load_target("model.py:WHO", tmp_path / "b") == "b"
    assert "model" not in sys.modules


def test_the_same_file_is_loaded_once_and_again_when_it_changes(tmp_path):
    write(tmp_path, "model.py", "class Net: pass\n")
    first = load_target("model.py:Net", tmp_path)
    assert load_target("model.py:Net", tmp_path) is first
    write(tmp_path, "model.py", "class Net: changed = True\n")
    assert load_target("model.py:Net", tmp_path).changed


def test_dataclasses_and_dotted_names(tmp_path):
    write(
        tmp_path,
        "model.py",
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Outer:\n    n: 'int' = 3\n    class Inner: x = 5\n",
    )
    assert load_target("model.py:Outer", tmp_path)().n == 3
    assert load_target("model.py:Outer.Inner.x", tmp_path) == 5


def test_a_package(tmp_path):
    assert load_target("collections:OrderedDict") is __import__("collections").OrderedDict
    write(tmp_path, "package_of_target.py", "VALUE = 9\n")
    assert load_target("package_of_target:VALUE", tmp_path) == 9


def test_no_such_file_says_where_it_looked(tmp_path):
    write(tmp_path, "model.py", "")
    error = refusal("modle.py:build", tmp_path)
    assert error.message == f"modle.py:build: no file modle.py; looked in {tmp_path}"
    assert error.hint == "did you mean 'model.py'?"


def test_no_such_name_lists_what_there_is(tmp_path):
    write(tmp_path, "model.py", "def build(): pass\n")
    error = refusal("model.py:biuld", tmp_path)
    assert error.message == "model.py:biuld: model.py has no 'biuld'"
    assert error.hint == "did you mean 'build'?"
    assert refusal("model.py:xyz", tmp_path).hint == "it defines build"


def test_no_such_module(tmp_path):
    error = refusal("surely_not_there.models:build", tmp_path)
    assert "surely_not_there.models:build: no module 'surely_not_there'; looked in" in error.message
    write(tmp_path, "net_of_target.py", "")
    assert refusal("net_of_targ:build", tmp_path).hint.startswith("pip install net_of_targ")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = 1\nraise ValueError('bad\\nthing')\n", "loading failed in line 2: ValueError: bad"),
        ("def f(:\n", "loading failed in line 1: SyntaxError"),
        ("import surely_not_there\n", "in line 1: ModuleNotFoundError: No module named"),
    ],
)
def test_code_that_fails_names_its_line(tmp_path, code, words):
    write(tmp_path, "model.py", code)
    assert words in refusal("model.py:build", tmp_path).message
    assert not [
        name
        for name in sys.modules
        if name.startswith("_homotopy_target_model_")
        and getattr(sys.modules[name], "__file__", "").startswith(str(tmp_path))
    ]


@pytest.mark.parametrize("text", ["model.py", ":build", "model.py:"])
def test_not_a_target(tmp_path, text):
    assert refusal(text, tmp_path).message == f"{text!r} is not a target"


def test_what_counts_as_user_code():
    assert is_user_code("model.py:build")
    assert is_user_code(UserModel(name="pkg.mod:Net"))
    assert not is_user_code("data.npz")
    assert not is_user_code(None)


def test_loading_recipes_does_not_import_torch():
    import subprocess

    code = (
        "import sys\nfrom homotopy_cli.recipe.load import builtin_recipe\n"
        "from homotopy_cli.recipe.text import schema_table\n"
        "builtin_recipe(); schema_table()\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
