"""What the page carries beside its text: plotly.js, the figures as JSON, the hashes of scripts."""

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from plotly.offline import get_plotlyjs

from homotopy_cli.report.escaping import encodable
from homotopy_cli.report.panel import Panel
from homotopy_cli.report.theme import CONFIG, color, dark_colors, template


@cache
def plotly_gzip() -> str:
    """plotly.js, gzip + base64: 2 MB instead of 4.8. No time stamp, so the same bytes always."""
    packed = gzip.compress(get_plotlyjs().encode("utf-8"), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode("ascii")


@cache
def asset(name: str) -> str:
    """A file of report/assets."""
    return files("homotopy_cli.report").joinpath("assets", name).read_text(encoding="utf-8")


SCRIPTS = ("axes.js", "layers.js", "marks.js", "linked.js", "export.js", "page.js")


@cache
def page_script() -> str:
    """The page's own script: its files in one scope that nothing else sees."""
    parts = "\n".join(asset(name) for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def script_hash(script: str) -> str:
    """The CSP source expression of an inline script."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def content_security_policy(script: str) -> str:
    """No network at all; only our script, and plotly.js from memory."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {script_hash(script)} blob:",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def figures_json(panels: Sequence[Panel], domain: tuple[float, float], title: str = "") -> str:
    """All figures as strict JSON that cannot leave its <script> element.

    Args:
        panels: Those with a figure are included.
        domain: Range of the shared step axis.
        title: Of the page, for what is saved from it.
    """
    specs = []
    for panel in panels:
        if panel.figure is None:
            continue
        drawn = panel.figure.to_plotly_json()
        drawn["layout"].pop("template", None)
        if panel.extra.get("kind") == "layers":
            drawn["data"][0].pop("customdata", None)  # the script names the cells in sight itself
        specs.append(
            {
                "key": panel.key,
                "title": panel.title,
                "unit": panel.unit,
                "data": drawn["data"],
                "layout": drawn["layout"],
                "linked": panel.linked,
                "extra": panel.extra,
            }
        )
    document = {
        "panels": specs,
        "domain": list(domain),
        "title": title,
        "paper": color("panel"),
        "dark": dark_colors(),
        "template": template(),
        "config": CONFIG,
    }
    return embedded_json(document)


def finite(value: Any) -> Any:
    """The same document with null for every number that JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return value


def embedded_json(document: Any) -> str:
    """Strict JSON with <, > and & as \\u escapes; sorted keys; what is not finite is null."""
    text = json.dumps(
        finite(document), allow_nan=False, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return encodable(text)
