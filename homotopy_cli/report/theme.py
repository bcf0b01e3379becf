"""Colours and the plotly template, for light and dark.

Figures are drawn with the light colours. Each light colour stands for a *role* and occurs once,
so the page can turn a figure dark by replacing strings, without knowing what was drawn.
"""

from typing import Any

import plotly.graph_objects as go

# role: (light, dark). Against panel and page words have 4.5:1 or better, and so has every role of
# a line but GRAPHIC, which have 3:1 (WCAG 2.2, 1.4.3 and 1.4.11); grid, axis and line are
# ornament. Wherever two roles share a panel, dash or marker tells them apart without hue.
PALETTE: dict[str, tuple[str, str]] = {
    "ink": ("#1b1f24", "#e7e9ec"),
    "muted": ("#5f6774", "#98a2b0"),
    "grid": ("#ecebe7", "#242a33"),
    "axis": ("#c4c6c8", "#3b4450"),
    "page": ("#f7f6f3", "#0e1116"),
    "panel": ("#fefefd", "#151a21"),
    "line": ("#e4e2dc", "#272e38"),
    "blue": ("#2460c4", "#78a9ff"),
    "blue_soft": ("#638dd5", "#4a6dab"),
    "orange": ("#b05506", "#f5a65b"),
    "teal": ("#0b776c", "#4fcfbd"),
    "red": ("#c22f3c", "#ff8087"),
    "violet": ("#7348bd", "#bb9df7"),
    "gold": ("#86630a", "#e3bd52"),
    "grey": ("#868e99", "#7f8996"),
    "green": ("#22803f", "#5fca80"),
    "danger_band": ("rgba(194,47,60,0.07)", "rgba(255,128,135,0.10)"),
    "blue_band": ("rgba(36,96,196,0.14)", "rgba(120,169,255,0.18)"),
    "orange_band": ("rgba(176,85,6,0.14)", "rgba(245,166,91,0.18)"),
    "teal_band": ("rgba(11,119,108,0.14)", "rgba(79,207,189,0.18)"),
    "violet_band": ("rgba(115,72,189,0.14)", "rgba(187,157,247,0.18)"),
    "red_band": ("rgba(194,47,60,0.14)", "rgba(255,128,135,0.18)"),
    "gold_band": ("rgba(134,99,10,0.16)", "rgba(227,189,82,0.18)"),
    "green_band": ("rgba(34,128,63,0.14)", "rgba(95,202,128,0.18)"),
    "grey_band": ("rgba(134,142,153,0.16)", "rgba(127,137,150,0.22)"),
}

GRAPHIC = ("blue_soft", "grey")  # of lines and marks, never of words

# Runs in a comparison, in order. Without red-green vision blue and violet, orange and gold, teal
# and grey look alike: every run has a dash that none of its look-alikes has.
RUN_ROLES = ("blue", "orange", "teal", "violet", "red", "gold", "green", "grey")
DASHES = ("solid", "dash", "dashdot", "longdash", "dot", "longdashdot")
DASH_PATTERNS = {  # as SVG draws them, px
    "solid": "",
    "dash": "5 3",
    "dot": "1.5 3",
    "dashdot": "5 3 1.5 3",
    "longdash": "8 3",
    "longdashdot": "8 3 1.5 3",
}
BASELINE = ("grey", "dot")

FONT = (
    'Inter, "Inter var", system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", '
    '"Liberation Sans", Arial, sans-serif'
)
HEIGHT = 300  # px of a panel's plot, before a phone shrinks it

CONFIG = {
    "showSendToCloud": False,  # plotly.js 4 shows an upload button by default
    "plotlyServerURL": "",
    "displaylogo": False,
    "displayModeBar": False,
    "doubleClick": False,  # the page itself returns to the whole axis, in every linked panel
    "responsive": True,
}


def color(role: str) -> str:
    """The light colour of a role."""
    return PALETTE[role][0]


def run_style(i: int, *, baseline: bool = False) -> tuple[str, str]:
    """Role and dash of run or arm i of a comparison, the same in every panel of the page."""
    if baseline:
        return BASELINE
    return RUN_ROLES[i % len(RUN_ROLES)], DASHES[i % len(DASHES)]


def dark_colors() -> dict[str, str]:
    """Light colour -> dark colour, for the page's script."""
    return dict(PALETTE.values())


def css_variables() -> str:
    """The palette as CSS custom properties, following the reader's colour scheme."""
    light = "".join(f"--{role.replace('_', '-')}:{pair[0]};" for role, pair in PALETTE.items())
    dark = "".join(f"--{role.replace('_', '-')}:{pair[1]};" for role, pair in PALETTE.items())
    return (
        f":root{{color-scheme:light;{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light])"
        f"{{color-scheme:dark;{dark}}}}}\n"
        f"@media screen{{:root[data-theme=dark]{{color-scheme:dark;{dark}}}}}\n"
    )


def template() -> dict[str, Any]:
    """The layout every figure shares; the page carries it once."""
    axis = {
        "gridcolor": color("grid"),
        "linecolor": color("axis"),
        "tickcolor": color("axis"),
        "zeroline": False,
        "showline": False,
        "ticks": "",
        "automargin": True,
        "title": {"font": {"size": 12, "color": color("muted")}, "standoff": 6},
        "tickfont": {"size": 11.5, "color": color("muted")},
        "exponentformat": "power",
        "minexponent": 4,
    }
    return {
        "layout": {
            "font": {"family": FONT, "size": 12.5, "color": color("ink")},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": [color(role) for role in RUN_ROLES],
            "margin": {"l": 56, "r": 26, "t": 10, "b": 40},
            "separators": ".\u202f",
            "showlegend": False,
            "hovermode": "x unified",
            "hoverlabel": {
                "bgcolor": color("panel"),
                "bordercolor": color("line"),
                "font": {"family": FONT, "size": 12, "color": color("ink")},
                "namelength": -1,
            },
            "xaxis": {
                **axis,
                "tickformat": ",.9~g",
                "hoverformat": ",d",
                "showgrid": False,
                "showline": True,
                "ticks": "outside",
                "ticklen": 4,
                "showspikes": False,  # the page draws one cursor through all linked panels
            },
            "yaxis": {**axis, "nticks": 6},
        }
    }


def base_figure(*, x_title: str = "step", height: int = HEIGHT) -> go.Figure:
    """An empty figure in the house style."""
    at = "%{x:,d}" if x_title in ("step", "rank") else "%{x:.4~g}"
    return go.Figure(
        layout={
            "template": template(),
            "height": height,
            "xaxis": {
                "title": {"text": x_title},
                "unifiedhovertitle": {"text": f"{x_title} {at}"},
            },
        }
    )
