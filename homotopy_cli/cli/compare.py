"""Two probes side by side: what changed between two checkpoints, overall and per layer."""

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from homotopy_cli.cli.render import plain_table, short

LAYERS = 20  # rows of layers shown, those that changed most first


def comparison(this: dict[str, Any], other: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per quantity and per layer's λ_max: both values, ratio, and whether it is real.

    `distinct` is True where the values lie further apart than both their errors together
    (residuals and what follows from them; three standard errors of what is sampled), None where
    no error is known.
    """
    rows = []
    for name in ("loss", "grad_norm", "hessian_norm", "kappa"):
        errors = [x.get(f"{name}_error") for x in (this, other)]
        rows.append(_row(name, this[name], other[name], *errors))
    for name in ("lambda_max", "lambda_min", "preconditioned_sharpness"):
        a, b = this[name] or {}, other[name] or {}
        errors = a.get("residual"), b.get("residual")
        rows.append(_row(name, a.get("value"), b.get("value"), *errors))
    for name in ("trace", "frobenius_norm"):
        a, b = this[name] or {}, other[name] or {}
        errors = [None if x.get("stderr") is None else 3.0 * x["stderr"] for x in (a, b)]
        rows.append(_row(name, a.get("value"), b.get("value"), *errors))
    before = {layer["name"]: layer for layer in other["layers"]}
    for layer in this["layers"]:
        twin = before.get(layer["name"], {})
        rows.append(
            _row(
                f"layers.{layer['name']}.lambda_max",
                layer["lambda_max"],
                twin.get("lambda_max"),
                layer["residual"],
                twin.get("residual"),
            )
        )
    return rows


def _row(
    name: str, a: float | None, b: float | None, error_a: float | None, error_b: float | None
) -> dict[str, Any]:
    known = a is not None and b is not None
    distinct = None
    if known and error_a is not None and error_b is not None:
        distinct = abs(a - b) > error_a + error_b
    return {
        "quantity": name,
        "this": a,
        "other": b,
        "ratio": a / b if known and b else None,
        "distinct": distinct,
    }


def table(document: dict[str, Any], other: Path) -> Table:
    """The rows as a table: the whole first, then the layers that changed most."""
    made = plain_table(
        f"Beside {other}",
        ("quantity", "left"),
        ("this", "right"),
        ("other", "right"),
        ("this/other", "right"),
        ("", "left"),
    )
    rows = [r for r in document["comparison"] if r["this"] is not None or r["other"] is not None]
    layers = [r for r in rows if r["quantity"].startswith("layers.")]
    layers.sort(key=lambda r: -_change(r))
    for row in [r for r in rows if not r["quantity"].startswith("layers.")] + layers[:LAYERS]:
        word = "within their errors" if row["distinct"] is False else ""
        made.add_row(
            escape(row["quantity"]),
            short(row["this"], 5),
            short(row["other"], 5),
            short(row["ratio"], 3),
            word,
        )
    if len(layers) > LAYERS:
        made.caption = f"{len(layers) - LAYERS} more layers: see --json"
    return made


def _change(row: dict[str, Any]) -> float:
    """How many times larger one is than the other; 0 where a sign differs or one is missing."""
    ratio = row["ratio"]
    return 0.0 if ratio is None or ratio <= 0.0 else max(ratio, 1.0 / ratio)
