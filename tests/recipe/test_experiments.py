"""The founding experiments' recipes: every profile is valid, and the small ones make a step."""

from pathlib import Path

import pytest
import yaml

from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.training.check import check

FOLDER = Path(__file__).parents[2] / "recipes" / "experiments"
RECIPES = sorted(FOLDER.glob("*.yaml"))
PROFILES = [
    (path, name)
    for path in RECIPES
    for name in yaml.safe_load(path.read_text(encoding="utf-8"))["profiles"]
]
OWN_DATA = [path for path in RECIPES if path.stem != "cifar10"]  # whose images nobody ships


def test_every_experiment_has_its_protocol_and_its_profiles():
    assert {path.stem for path in RECIPES} >= {"convex", "cifar10", "char_gpt", "depth", "overhead"}
    for path in RECIPES:
        assert "Protocol, written before the" in path.read_text(encoding="utf-8")
        assert {(path, "small"), (path, "gpu")} <= set(PROFILES)


@pytest.mark.parametrize(("path", "name"), PROFILES, ids=lambda x: getattr(x, "stem", x))
def test_every_profile_is_valid(path, name):
    assert load_recipe(path, profile=name).recipe.steps > 0


@pytest.mark.parametrize("path", OWN_DATA, ids=lambda path: path.stem)
def test_the_small_profile_makes_a_step(path, tmp_path):
    report = check(load_recipe(path, ("threads=1",), profile="small"), tmp_path / "run.h5")
    assert report.grad_norm > 0.0
