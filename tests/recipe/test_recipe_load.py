"""Loading, changing and writing recipes."""

import json

import pytest

from homotopy_cli.errors import RecipeError
from homotopy_cli.recipe.load import (
    builtin_names,
    builtin_recipe,
    load_recipe,
    recipe_from_resolved,
)

TEXT = """
model: model.py:build
data: data.npz
optimizer:
  name: sgd
  lr: 1e-1
steps: 2e1
batch_size: 16
seed: 1
out: run.h5
"""


@pytest.fixture
def write(tmp_path):
    def make(text: str = TEXT, name: str = "r.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return make


def test_the_contract_example_with_numbers_yaml_1_1_reads_as_text(write):
    path = write()
    loaded = load_recipe(path)
    recipe = loaded.recipe
    assert recipe.optimizer.lr == 0.1
    assert recipe.steps == 20
    assert type(recipe.steps) is int
    assert (loaded.name, loaded.path, loaded.base_dir) == ("r", path, path.parent)
    assert loaded.source == TEXT
    assert recipe.optimizer.settings() == {"lr": 0.1}


def test_defaults(write):
    recipe = load_recipe(write()).recipe
    assert recipe.scheduler.name == "homotopy"
    assert recipe.curvature.freq == 10
    assert recipe.clip is None
    assert recipe.dtype == "float32"


def test_null_means_left_out(write):
    text = TEXT.replace("seed: 1", "seed: null") + "clip: ~\nscheduler: {name: step, gamma: null}\n"
    recipe = load_recipe(write(text)).recipe
    assert recipe.seed == 0
    assert recipe.clip is None
    assert recipe.scheduler.gamma == 0.1


def test_a_bare_name_is_a_section(write):
    recipe = load_recipe(write(TEXT + "scheduler: cosine\n")).recipe
    assert recipe.scheduler.name == "cosine"
    recipe = load_recipe(write(), ["model=mlp", "scheduler=homotopy", "scheduler.inner=wsd"]).recipe
    assert recipe.model.hidden == (64, 64)
    assert recipe.scheduler.inner.name == "wsd"


def test_user_code_takes_keywords(write):
    loaded = load_recipe(
        write(), ["model.layers=3", "optimizer={name: 'opt.py:Mine', lr: 1, weird: [1]}"]
    )
    assert loaded.recipe.model.name == "model.py:build"
    assert loaded.recipe.model.settings() == {"layers": 3}
    assert loaded.recipe.optimizer.settings() == {"lr": 1.0, "weird": [1]}


def test_a_data_path_takes_settings(write):
    recipe = load_recipe(write(), ["data.holdout=0"]).recipe
    assert recipe.data.settings() == {"path": "data.npz", "x": "x", "y": "y", "holdout": 0.0}


def test_sets_apply_in_order_and_parse_like_the_file(write):
    loaded = load_recipe(
        write(),
        [
            "optimizer.lr=3e-3",
            "optimizer.lr=2e-3",
            "optimizer.momentum=0.9",
            "steps=1e2",
            "clip={name: curvature_aware, max_norm: 2}",
            "name=a=b",
        ],
    )
    recipe = loaded.recipe
    assert recipe.optimizer.settings() == {"lr": 0.002, "momentum": 0.9}
    assert recipe.steps == 100
    assert recipe.clip.name == "curvature_aware"
    assert loaded.name == "a=b"
    assert len(loaded.overrides) == 6


def test_set_reaches_into_a_list(write):
    path = write(TEXT.replace("name: sgd", "name: adam\n  betas: [0.9, 0.999]"))
    assert load_recipe(path, ["optimizer.betas.1=0.95"]).recipe.optimizer.betas == (0.9, 0.95)


def test_set_null_takes_a_key_away(write):
    path = write(TEXT + "clip: {max_norm: 1}\n")
    assert load_recipe(path).recipe.clip is not None
    assert load_recipe(path, ["clip=null"]).recipe.clip is None


PROFILES = """
profiles:
  small: {steps: 5, optimizer.lr: 0.5, curvature: {freq: 3}}
  broken: {steps: five}
"""


def test_a_profile_comes_before_set(write):
    path = write(TEXT + PROFILES)
    recipe = load_recipe(path, profile="small").recipe
    assert (recipe.steps, recipe.optimizer.lr, recipe.curvature.freq) == (5, 0.5, 3)
    assert load_recipe(path, ["steps=7"], profile="small").recipe.steps == 7
    assert load_recipe(path).recipe.steps == 20


def test_a_profile_that_is_not_there(write):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(TEXT + PROFILES), profile="smal")
    assert caught.value.message.endswith("r.yaml: no profile 'smal'")
    assert caught.value.hint == "did you mean 'small'?"


def test_a_fault_in_a_profile_has_the_profile_s_line(write):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(TEXT + PROFILES), profile="broken")
    line = (TEXT + PROFILES).splitlines().index("  broken: {steps: five}") + 1
    assert f"r.yaml:{line}: steps: 'five' is text, not a whole number" in caught.value.message


def test_a_recipe_that_is_not_there(tmp_path, write):
    write(name="gpt.yaml")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "gtp.yaml")
    assert caught.value.message == f"{tmp_path}/gtp.yaml: no such recipe"
    assert caught.value.hint == f"did you mean {tmp_path}/gpt.yaml?"
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(tmp_path)


def test_the_built_in_quickstart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "quickstart" in builtin_names()
    loaded = builtin_recipe("quickstart", ["steps=3"])
    assert loaded.path is None
    assert loaded.base_dir == tmp_path
    assert loaded.name == "quickstart"
    assert loaded.recipe.steps == 3
    with pytest.raises(RecipeError, match="no built-in recipe 'quick'"):
        builtin_recipe("quick")
    with pytest.raises(RecipeError, match=r"--set steps=x: 'x' is text"):
        builtin_recipe("quickstart", ["steps=x"])


@pytest.mark.parametrize("text", [TEXT, None])
def test_resolved_recipes_read_back_equal(write, text):
    loaded = load_recipe(write(text)) if text else builtin_recipe()
    recipe = loaded.recipe
    plain = recipe.model_copy(update={"profiles": {}})
    resolved = recipe.resolved()
    stored = json.dumps(resolved, allow_nan=False)
    assert recipe_from_resolved(stored) == plain
    assert recipe_from_resolved(resolved) == plain


def test_a_stored_recipe_that_does_not_fit_names_its_place():
    with pytest.raises(RecipeError, match=r"run\.pt: stepz: unknown key"):
        recipe_from_resolved({**builtin_recipe().recipe.resolved(), "stepz": 1}, "run.pt")
    with pytest.raises(RecipeError, match=r"run\.pt: the stored recipe is not JSON"):
        recipe_from_resolved("{", "run.pt")
    with pytest.raises(RecipeError, match=r"run\.pt: the stored recipe is not a mapping"):
        recipe_from_resolved("[1]", "run.pt")
