"""Colours, dashes and names of runs that share a plot."""

import json
import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import report_samples as samples

from homotopy_cli.report.compare import compare_body
from homotopy_cli.report.payload import asset
from homotopy_cli.report.theme import GRAPHIC, PALETTE, RUN_ROLES, run_style

# Machado, Oliveira & Fernandes (2009), severity 1, on linear RGB.
DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)
TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
) / np.array([[0.95047], [1.0], [1.08883]])
APART = 30  # CIE76; a just noticeable difference is 2.3


def seen(colour: str) -> np.ndarray:
    """CIELAB of a colour as a deuteranope sees it."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(np.clip(TO_XYZ @ np.clip(DEUTERANOPIA @ linear, 0, 1), 1e-6, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one: str, other: str) -> float:
    """WCAG 2.2: (L + 0.05) of the lighter over that of the darker colour."""
    lights = []
    for colour in (one, other):
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        lights.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return max(lights) / min(lights)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_words_have_contrast_4_5_and_lines_3(scheme):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    ornament = {"grid", "axis", "line", "page", "panel"}
    for role, pair in PALETTE.items():
        if role in ornament or role.endswith("_band"):
            continue
        for ground in ("panel", "page"):
            least = 3.0 if role in GRAPHIC else 4.5
            found = contrast(pair[scheme], PALETTE[ground][scheme])
            assert found >= least, f"{role} on {ground}: {found:.2f}"


def test_no_words_have_a_role_that_is_for_lines():
    css = asset("page.css")
    for role in GRAPHIC:
        assert f"color:var(--{role.replace('_', '-')})" not in css.replace("background-color", "")
    made = json.dumps(
        [p.figure.to_plotly_json() for p in compare_body(logs(1)).panels], default=str
    )
    for role in GRAPHIC:
        assert not re.search(rf'"font": {{[^}}]*"{PALETTE[role][0]}"', made)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_runs_of_one_dash_differ_in_colour_without_red_green_vision(scheme):
    styles = [*(run_style(i) for i in range(len(RUN_ROLES))), run_style(0, baseline=True)]
    for (role, dash), (other, its) in combinations(styles, 2):
        if dash == its:
            far = np.linalg.norm(seen(PALETTE[role][scheme]) - seen(PALETTE[other][scheme]))
            assert far > APART, f"{role} and {other} are both {dash}"


def logs(seeds: int, *, name: str = "gelu"):
    made = []
    for lr in (1e-3, 3e-3, 1e-2):
        for seed in range(seeds):
            log = samples.transformer_log(n=60, lr=lr, seed=seed, spike=False)
            resolved = dict(log.provenance["recipe_resolved"])
            resolved["model"] = {**resolved["model"], "act": name if lr > 2e-3 else "other"}
            made.append(replace(log, provenance={**log.provenance, "recipe_resolved": resolved}))
    return made


@pytest.mark.parametrize("seeds", [1, 2], ids=["lines", "bands"])
def test_lines_and_bands_have_the_same_styles(seeds):
    body = compare_body(logs(seeds), baseline=samples.transformer_log(n=60, spike=False))
    for panel in body.panels:
        found = list(dict.fromkeys((t.meta["role"], t.meta["dash"]) for t in panel.figure.data))
        if panel.key == "sweep":
            assert found == [run_style(i) for i in range(len(found))]
        else:
            assert found == [*map(run_style, range(3)), run_style(0, baseline=True)], panel.key


@pytest.mark.parametrize("seeds", [1, 2], ids=["lines", "bands"])
def test_a_name_is_escaped_once_in_the_legend_and_once_for_plotly(seeds):
    body = compare_body(logs(seeds, name="a<b> & 'c'"))
    legend = re.findall(r"</svg>([^<]*)</button>", body.html)
    assert any("act=a&lt;b&gt; &amp; &#x27;c&#x27;" in name for name in legend)
    assert not any("&amp;lt;" in name for name in legend)
    for panel in body.panels:
        assert not any("<b>" in trace.name for trace in panel.figure.data), panel.key
