"""Files that a recipe names and that are not there: all said at once, with every other fault."""

import pytest

from homotopy_cli.cli.app import run
from homotopy_cli.errors import RecipeError
from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.recipe.targets import load_target

RECIPE = """\
model: model.py:build
loss: model.py:loss
data: data.npz
optimizer: {name: sgd, lr: 0.1}
steps: 5
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "model.py").write_text("")
    (tmp_path / "data.npz").write_bytes(b"")
    return tmp_path


def faults(folder, *settings):
    with pytest.raises(RecipeError) as caught:
        load_recipe(folder / "r.yaml", settings, files=True)
    return caught.value.faults


def test_every_missing_file_is_a_fault_beside_the_others(folder):
    found = faults(folder, "model=nofile.py:x", "data=nodata.npz", "optimizer.lr=-3")
    assert found == (
        ("--set optimizer.lr=-3: -3 is too small", "greater than 0"),
        (
            f"--set model=nofile.py:x: nofile.py:x: no file nofile.py; looked in {folder}",
            "paths start at the recipe's folder",
        ),
        (
            f"--set data=nodata.npz: nodata.npz: no such data file; looked in {folder}",
            "did you mean 'data.npz'?",
        ),
    )


@pytest.mark.parametrize(
    ("setting", "what", "hint"),
    [
        ("loss=modle.py:loss", "no file modle.py", "did you mean 'model.py'?"),
        ("data={name: 'gone.py:load'}", "no file gone.py", "paths start at the recipe's folder"),
        (
            "data={name: text, path: no/zzz.txt}",
            "no such data file; looked in",
            "any UTF-8 text will do: --set data.path=FILE.txt",
        ),
        ("model={name: hf, path: zzz}", "no such transformers folder", "--set model.path=PATH"),
        ("data={name: cifar10, path: zzz}", "no such data folder", "get cifar-10-binary.tar.gz"),
    ],
)
def test_each_kind_has_its_words(folder, setting, what, hint):
    ((said, advice),) = faults(folder, setting)
    assert what in said and advice.startswith(hint)


def test_a_place_in_the_file_is_named(folder):
    (folder / "model.py").unlink()
    (first, _), (second, _) = faults(folder)
    assert first.startswith(f"{folder / 'r.yaml'}:1: model: model.py:build: no file model.py")
    assert second.startswith(f"{folder / 'r.yaml'}:2: loss: model.py:loss: no file model.py")


def test_files_are_only_looked_for_when_they_will_be_read(folder):
    (folder / "data.npz").unlink()
    assert load_recipe(folder / "r.yaml").recipe.steps == 5


def test_train_reports_them_together(folder, capsys):
    assert run(["train", str(folder / "r.yaml"), "--set", "model=a.py:x", "--set", "data=b.npz"])
    said = capsys.readouterr().err
    assert "no file a.py" in said and "b.npz: no such data file" in said


def test_a_target_without_a_recipe_does_not_speak_of_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        load_target("nosuch.py:build")
    assert caught.value.hint == "paths start at the current folder"
    with pytest.raises(RecipeError) as caught:
        load_target("nosuch.py:build", tmp_path / "recipes")
    assert caught.value.hint == "paths start at the recipe's folder"
