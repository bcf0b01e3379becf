"""The recipes of the package: one text in both places, a list, copies, names instead of files."""

import re
from pathlib import Path

import pytest

from homotopy_cli.cli.app import run
from homotopy_cli.errors import RecipeError
from homotopy_cli.recipe.load import builtin_names, builtin_source, load_recipe, open_recipe
from homotopy_cli.recipe.shipped import copy_shipped, shipped_recipes

RECIPES = Path(__file__).parents[2] / "recipes"
EXTRAS = {
    "bpe": "hf",
    "hf": "hf",
    "image_folder": "images",
    "digits": "digits",
    "hf_dataset": "datasets",
}


def test_the_package_ships_the_recipes_folder():
    """recipes/ is the source: after a change, cp recipes/*.yaml homotopy_cli/builtin_recipes/"""
    shown = {path.stem: path.read_bytes() for path in RECIPES.glob("*.yaml")}
    assert {name: builtin_source(name) for name in builtin_names()} == shown


def test_every_recipe_says_what_it_is_and_what_it_needs():
    for shipped in shipped_recipes():
        recipe = open_recipe(shipped.name).recipe
        assert shipped.title.endswith(".")
        assert len(shipped.title) < 100
        assert re.match(r"\d+ s|\d+ min", shipped.small), shipped
        assert "on 1 CPU core" in shipped.small
        path = getattr(recipe.data, "path", None)
        if path is None:
            assert "none needed" in shipped.data or "comes with" in shipped.data
        else:
            assert "beside this file" in shipped.data
            assert path.split("/")[0] + "/" in shipped.data
        for part in (recipe.model.name, recipe.data.name):
            if part in EXTRAS:
                assert f"extra `{EXTRAS[part]}`" in shipped.data


def test_the_list_on_the_terminal(capsys):
    assert run(["train", "--list"]) == 0
    out = capsys.readouterr().out
    for name in builtin_names():
        assert f"\n{name}\n  what    " in "\n" + out
    assert "  data    none needed: the text comes with Python" in out
    assert max(map(len, out.splitlines())) <= 100


def test_a_copy_is_the_same_file_and_never_overwrites(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["train", "--copy", "quadratic"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "recipe  quadratic.yaml",
        "next    homotopy train quadratic.yaml --check",
    ]
    copied = tmp_path / "quadratic.yaml"
    assert copied.read_bytes() == builtin_source("quadratic")
    copied.write_text("mine")
    assert run(["train", "--copy", "quadratic"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: quadratic.yaml: is there already, and is not overwritten",
        "hint:  homotopy train --copy quadratic OTHER.yaml",
    ]
    assert copied.read_text() == "mine"
    assert run(["train", "--copy", "quadratic", "other.yaml"]) == 0
    (tmp_path / "folder").mkdir()
    assert copy_shipped("quickstart", Path("folder")) == Path("folder/quickstart.yaml")
    assert load_recipe("folder/quickstart.yaml").recipe == open_recipe("quickstart").recipe
    with pytest.raises(RecipeError, match=r"nowhere/x\.yaml: cannot be written \(No such file"):
        copy_shipped("quickstart", Path("nowhere/x.yaml"))
    with pytest.raises(RecipeError) as caught:
        copy_shipped("quadratics")
    assert caught.value.message == "no built-in recipe 'quadratics'"
    assert caught.value.hint == "did you mean 'quadratic'?"


def test_a_name_is_a_recipe_unless_a_file_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    named = open_recipe("quadratic", ["steps=7"], profile="small")
    assert (named.name, named.recipe.steps, named.path) == ("quadratic", 7, None)
    assert named.base_dir == tmp_path
    Path("quadratic").write_text(builtin_source("quadratic").decode().replace("1000", "123"))
    assert open_recipe("quadratic").recipe.steps == 123
    assert run(["train", "quadratics"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: quadratics: no such recipe",
        "hint:  did you mean 'quadratic', which comes with homotopy?",
    ]
    assert run(["train", "zzz.yaml"]) == 2
    assert "hint:  homotopy train --list shows some" in capsys.readouterr().err


def test_a_named_recipe_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "quadratic", "--profile", "small", "--set", "steps=20", "-q"]
    assert run([*arguments, "--no-report"]) == 0
    assert (tmp_path / "runs/quadratic/run.h5").is_file()
    assert "next        homotopy probe runs/quadratic/run.pt" in capsys.readouterr().out
