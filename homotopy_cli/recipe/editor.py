"""A JSON Schema of recipes, for editors that complete and check YAML."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from homotopy_cli.recipe.optimizers import TORCH_SPECS
from homotopy_cli.recipe.schedules import FIXED_SPECS, SCHEDULER_SPECS
from homotopy_cli.recipe.schema import Recipe

JSON_SCHEMA_DRAFT = GenerateJsonSchema.schema_dialect
# Sections that may be written as one word, `scheduler: cosine`; model and data take any text.
_WORDS = {"scheduler": SCHEDULER_SPECS, "inner": FIXED_SPECS, "optimizer": TORCH_SPECS}


def recipe_json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe (`# yaml-language-server: $schema=FILE`).

    It says what `load_recipe` says, as far as JSON Schema can: conditions between keys, and
    what a profile may hold, are left to `load_recipe`.
    """
    schema = Recipe.model_json_schema(mode="validation")
    for definition in (schema, *schema["$defs"].values()):
        _refine(definition)
    return {"$schema": JSON_SCHEMA_DRAFT, "title": "homotopy recipe", **schema}


def _refine(definition: dict[str, Any]) -> None:
    """Make alternatives exclusive by their `name`, and allow words for sections."""
    properties = definition.get("properties", {})
    name = properties.get("name", {})
    if "const" in name:
        definition["required"] = ["name", *_without(definition.get("required", []), "name")]
    elif definition.get("additionalProperties") is True:
        name["pattern"] = ":"  # the user's own code: package.module:callable
    for key in properties.keys() - set(definition.get("required", ())) - {"name"}:
        _allow_null(properties[key])
    for key, specs in _WORDS.items():
        section = properties.get(key, {})
        for choices in (section.get("oneOf"), *_inner(section)):
            if choices is not None:
                choices.append({"enum": sorted(specs)})


def _allow_null(value: dict[str, Any]) -> None:
    """null means that a key is left out."""
    if isinstance(value.get("type"), str):
        value["type"] = [value["type"], "null"]
    if "enum" in value and None not in value["enum"]:
        value["enum"] = [*value["enum"], None]


def _inner(section: dict[str, Any]) -> list[list[Any]]:
    """The alternatives of a section that may also be null."""
    return [item["oneOf"] for item in section.get("anyOf", []) if "oneOf" in item]


def _without(words: list[str], word: str) -> list[str]:
    return [other for other in words if other != word]
