"""The torch-free tables against what they stand for: constructors, shipped files, README."""

import inspect
import re
from pathlib import Path

import pytest
import torch

from homotopy_cli.recipe.load import builtin_recipe, load_recipe
from homotopy_cli.recipe.optimizers import (
    NEEDS_A_CLOSURE,
    NEEDS_SPARSE_GRADIENTS,
    TORCH_OPTIMIZERS,
    TORCH_SPECS,
    keywords,
)
from homotopy_cli.recipe.schedules import CURVATURE_SPECS, FIXED_SPECS
from homotopy_cli.recipe.schema import AUTO_BUDGET
from homotopy_cli.recipe.text import schema_table
from homotopy_cli.schedulers.homotopy import BUDGET
from homotopy_cli.schedulers.settings import RELEASE, GuardSettings
from homotopy_cli.schedulers.targets import TARGET
from homotopy_cli.training.plans import FLOOR

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted(RECIPES.glob("*.yaml"))
DEFAULTS = {"d6", "pre", "homotopy"}  # profiles that may name what a recipe already is


def test_every_torch_optimizer_is_known():
    classes = {
        name
        for name, value in vars(torch.optim).items()
        if isinstance(value, type)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
    }
    known = set(TORCH_OPTIMIZERS.values())
    left_out = {*NEEDS_A_CLOSURE, *NEEDS_SPARSE_GRADIENTS}
    assert {name.lower() for name in classes} == {name.lower() for name in known} | left_out


@pytest.mark.parametrize("name", TORCH_OPTIMIZERS)
def test_optimizer_keywords_are_torch_s(name):
    signature = inspect.signature(getattr(torch.optim, TORCH_OPTIMIZERS[name]).__init__)
    expected = set(signature.parameters) - {"self", "params", "differentiable", "capturable"}
    assert set(keywords(name)) == expected
    assert set(TORCH_SPECS[name].model_fields) == expected | {"name"}


@pytest.mark.parametrize("name", TORCH_OPTIMIZERS)
def test_torch_s_own_defaults_pass_the_schema(name):
    """A default that our ranges refuse would be a range of our invention."""
    signature = inspect.signature(getattr(torch.optim, TORCH_OPTIMIZERS[name]).__init__)
    given = {}
    for key in keywords(name):
        default = signature.parameters[key].default
        default = float(default) if isinstance(default, torch.Tensor) else default
        if default is not None and not (isinstance(default, tuple) and None in default):
            given[key] = list(default) if isinstance(default, tuple) else default
    spec = TORCH_SPECS[name].model_validate({"name": name, **given})
    shape = (2, 2)  # Muon wants matrices
    weight = torch.nn.Parameter(torch.ones(shape))
    optimizer = getattr(torch.optim, TORCH_OPTIMIZERS[name])([weight], **spec.settings())
    weight.grad = torch.ones(shape)
    optimizer.step()
    assert not torch.equal(weight.detach(), torch.ones(shape))


def _constructors():
    from homotopy_cli.schedulers.adaptive import AdaptiveHomotopyLR
    from homotopy_cli.schedulers.facade import CurvatureAdaptiveLR
    from homotopy_cli.schedulers.homotopy import HomotopyLR
    from homotopy_cli.schedulers.per_layer import PerLayerHomotopyLR
    from homotopy_cli.schedulers.warmup import CurvatureWarmup

    return {
        "homotopy": HomotopyLR,
        "adaptive_homotopy": AdaptiveHomotopyLR,
        "per_layer_homotopy": PerLayerHomotopyLR,
        "curvature_warmup": CurvatureWarmup,
        "curvature_adaptive": CurvatureAdaptiveLR,
    }


@pytest.mark.parametrize("name", CURVATURE_SPECS)
def test_scheduler_keys_are_the_constructor_s(name):
    classes = _constructors()
    shared = inspect.signature(classes["homotopy"].__init__).parameters
    own = inspect.signature(classes[name].__init__).parameters
    for key, info in CURVATURE_SPECS[name].model_fields.items():
        if key == "name":
            continue
        assert key in own or key in shared, f"{name} does not take {key}"
        said = re.search(r"default (\d+(?:\.\d+)?)(?=$|[:;,])", info.description)
        if said:
            default = (own.get(key) or shared.get(key)).default
            if default is None:  # made in the constructor
                made = {"target": TARGET, "release": RELEASE, "warmup": GuardSettings.warmup}
                default = made[key]
            if key == "floor":  # a recipe's own
                default = FLOOR
            assert float(said[1]) == default, f"{name}.{key}: {said[0]}, the class says {default}"


@pytest.mark.parametrize(
    ("sets", "share"),
    [
        (["scheduler=homotopy"], 0.05),
        (["scheduler={name: homotopy, mode: guard}"], 0.05),
        (["scheduler={name: homotopy, mode: auto}"], 0.03),
        (["scheduler={name: homotopy, mode: auto}", "curvature={freq: 20}"], 0.03),
        (["scheduler={name: curvature_adaptive, mode: auto}"], 0.03),
        (["scheduler={name: homotopy, mode: auto}", "curvature={budget: 0.05}"], 0.05),
    ],
)
def test_mode_auto_has_the_class_s_own_budget_unless_told(sets, share):
    recipe = load_recipe(RECIPES / "mlp_npz.yaml", sets).recipe
    assert recipe.curvature.budget == share
    assert recipe.resolved()["curvature"]["budget"] == share  # what the page draws
    assert BUDGET == {"guard": 0.05, "auto": AUTO_BUDGET}


@pytest.mark.parametrize("name", FIXED_SPECS)
def test_fixed_schedules_build_from_their_defaults(name):
    from homotopy_cli.schedulers.baselines import build_schedule

    spec = FIXED_SPECS[name]()
    schedule = build_schedule(name, 100, **spec.settings())
    assert schedule(0) == 1.0
    warm = build_schedule(name, 100, **FIXED_SPECS[name](warmup=0.1).settings())
    assert warm(0) == pytest.approx(0.1)
    assert warm(9) == 1.0


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_shipped_recipe_loads_with_every_profile(path):
    loaded = load_recipe(path)
    assert "small" in loaded.recipe.profiles
    for profile in loaded.recipe.profiles:
        changed = load_recipe(path, profile=profile).recipe
        assert changed.resolved() != loaded.recipe.resolved() or profile in DEFAULTS
        assert changed.steps < loaded.recipe.steps or profile != "small"
        load_recipe(path, profile=f"small,{profile}")
    assert loaded.source.startswith("#")  # says what it is
    assert f"({path.name})" in (RECIPES / "README.md").read_text(encoding="utf-8")


def test_the_quickstart_is_the_built_in_one():
    assert (RECIPES / "quickstart.yaml").read_text(encoding="utf-8") == builtin_recipe().source


def test_the_reference_table_is_current():
    text = (RECIPES / "README.md").read_text(encoding="utf-8")
    assert text.rstrip("\n").endswith(schema_table().rstrip("\n"))


@pytest.mark.parametrize("path", [*FILES, None], ids=lambda p: p.stem if p else "example")
def test_commands_in_comments_name_settings_that_exist(path):
    """Every `--set a.b=c` that a recipe's comments propose must be accepted by that recipe."""
    if path is None:
        text, load = (RECIPES / "README.md").read_text(encoding="utf-8"), builtin_recipe
        proposals = re.findall(r"`--set ([\w.]+=[\w.]+)`", text)
        assert "scheduler=cosine" in proposals
        proposals.remove("a.b=c")
    else:
        text = path.read_text(encoding="utf-8")
        proposals = re.findall(r"--set ([\w.]+=[^\s#]+)", text)

        def load(overrides):
            return load_recipe(path, overrides)

    for proposal in proposals:
        load(overrides=[proposal]) if path is None else load([proposal])
