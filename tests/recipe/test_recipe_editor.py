"""The JSON schema, judged by an independent validator: it accepts what loads and no more."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from homotopy_cli.cli.app import run
from homotopy_cli.recipe.editor import recipe_json_schema
from homotopy_cli.recipe.parsing import parse

RECIPES = Path(__file__).parents[2] / "recipes"
SCHEMA = recipe_json_schema()
FAULTS = Draft202012Validator(SCHEMA).iter_errors
BASE = {"model": "gpt", "data": "data.npz", "optimizer": {"name": "sgd", "lr": 0.1}, "steps": 1}


def test_it_is_a_schema():
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["additionalProperties"] is False
    assert set(SCHEMA["required"]) == {"model", "data", "optimizer", "steps"}
    assert SCHEMA["$defs"]["Gpt"]["properties"]["layers"]["minimum"] == 1


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_is_valid(path):
    document = parse(path.read_bytes(), str(path))
    assert [fault.message for fault in FAULTS(document.data)] == []


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"scheduler": "cosine"},
        {"scheduler": {"name": "homotopy", "inner": "linear"}},
        {"model": "model.py:build"},
        {"model": {"name": "model.py:build", "layers": 3}},
        {"data": {"name": "package.module:load", "path": "x"}},
        {"optimizer": {"name": "package.module:Lion", "lr": 0.1, "beta": 0.9}},
        {"clip": None, "eval_every": None, "dtype": None, "seed": None},
        {"model": {"name": "gpt", "layers": None, "norm": None}},
    ],
)
def test_what_may_be_written(change):
    assert [fault.message for fault in FAULTS({**BASE, **change})] == []


@pytest.mark.parametrize(
    "change",
    [
        {"stepz": 3},
        {"steps": "many"},
        {"steps": 0},
        {"model": {"name": "gpt", "layer": 3}},
        {"model": {"layers": 3}},
        {"model": {"name": None}},
        {"steps": None},
        {"model": {"name": "gtp"}},
        {"model": {"name": "resnet18", "stem": "small"}},
        {"data": {"name": "text", "contxt": 3}},
        {"scheduler": "cosin"},
        {"optimizer": {"name": "sgd", "lr": -1}},
        {"optimizer": {"name": "sgd", "lr": 0.1, "betas": [1]}},
    ],
)
def test_what_an_editor_underlines(change):
    assert list(FAULTS({**BASE, **change}))


def test_the_command_prints_it(capsys):
    assert run(["train", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA
