"""The reference of every key of a recipe as a markdown table."""

from typing import Any, get_args

from homotopy_cli.recipe.running import CompileSpec, EarlyStopSpec
from homotopy_cli.recipe.schedules import Ceiling
from homotopy_cli.recipe.schema import (
    DATA_SPECS,
    MODEL_SPECS,
    SCHEDULER_SPECS,
    TORCH_SPECS,
    ClipSpec,
    CurvatureSpec,
    Recipe,
)
from homotopy_cli.recipe.values import Spec, shown


def schema_table() -> str:
    """The reference of every key as markdown; recipes/README.md holds it, a test compares."""
    parts = ["### Top level", "", *_table(Recipe), ""]
    for title, key, specs in (
        ("Models", "model", MODEL_SPECS),
        ("Data", "data", DATA_SPECS),
        ("Schedulers", "scheduler", SCHEDULER_SPECS),
    ):
        parts += [f"### {title}: `{key}: {{name: ...}}`", ""]
        for name, spec in specs.items():
            parts += [f"**`{name}`**: {_first_line(spec)}", ""]
            rows = _table(spec, without=Ceiling if issubclass(spec, Ceiling) else None)
            parts += [*rows, ""] if len(rows) > 2 else []
    parts += ["**Every curvature-driven scheduler** (the first five) also takes", ""]
    parts += [*_table(Ceiling), ""]
    parts += ["### `curvature`", "", _first_line(CurvatureSpec), "", *_table(CurvatureSpec), ""]
    parts += ["### `clip`", "", _first_line(ClipSpec), "", *_table(ClipSpec), ""]
    parts += ["### `compile`", "", _first_line(CompileSpec), "", *_table(CompileSpec), ""]
    parts += ["### `early_stop`", "", _first_line(EarlyStopSpec), "", *_table(EarlyStopSpec), ""]
    parts += ["### Optimizers: `optimizer: {name: ...}`", "", *_optimizers(), ""]
    return "\n".join(parts)


def _first_line(spec: type[Spec]) -> str:
    return (spec.__doc__ or "").strip().splitlines()[0]


def _table(spec: type[Spec], *, without: type[Spec] | None = None) -> list[str]:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, info in spec.model_fields.items():
        shared = without is not None and name in without.model_fields
        if shared or (name == "name" and spec not in (Recipe, ClipSpec)):
            continue
        description = info.description or _inner_description(info.annotation)
        meaning = description.replace("|", "\\|")
        rows.append(f"| `{name}` | {_type(spec, name)} | {_default(info)} | {meaning} |")
    return rows


def _inner_description(annotation: Any) -> str:
    for part in get_args(annotation):
        found = getattr(part, "description", None) or _inner_description(part)
        if found:
            return found
    return ""


def _default(info: Any) -> str:
    if info.default_factory is not None:
        made = info.default_factory()
        return (
            f"`{{name: {made.name}}}`" if hasattr(made, "name") else "see below" if made else "none"
        )
    if info.is_required():
        return "**required**"
    if info.default is None:
        return "left out"
    value = list(info.default) if isinstance(info.default, tuple) else info.default
    return f"`{value if isinstance(value, str) else shown(value)}`"


def _type(spec: type[Spec], name: str) -> str:
    """A word for the type, from the JSON schema of the class."""
    schema = spec.model_json_schema(mode="validation")
    return _schema_type(schema["properties"][name], schema.get("$defs", {}))


def _schema_type(node: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in node:
        return "mapping"
    if "enum" in node:
        return ", ".join(f"`{word}`" for word in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    for key in ("anyOf", "oneOf"):
        if key in node:
            kinds = [_schema_type(item, definitions) for item in node[key]]
            return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))
    if node.get("type") == "array":
        items = node.get("items") or {}
        return f"list of {_schema_type(items, definitions)}s" if items else "list"
    words = {
        "integer": "integer",
        "number": "number",
        "boolean": "true/false",
        "string": "text",
        "object": "mapping",
        "null": "null",
    }
    return words.get(node.get("type", ""), "any")


def _optimizers() -> list[str]:
    rows = [
        "What is left out keeps torch's own default; `package.module:Class` takes any keyword.",
        "",
        "| name | keys |",
        "|---|---|",
    ]
    for name, spec in TORCH_SPECS.items():
        keys = ", ".join(f"`{key}`" for key in spec.model_fields if key != "name")
        rows.append(f"| `{name}` | {keys} |")
    return rows
