"""Panels and sections as HTML."""

from collections.abc import Sequence
from html import unescape

import plotly.graph_objects as go

from homotopy_cli.report.escaping import safe
from homotopy_cli.report.findings import Verdict
from homotopy_cli.report.panel import Panel
from homotopy_cli.report.still import still
from homotopy_cli.report.tables import table_html
from homotopy_cli.report.theme import DASH_PATTERNS


def legend_html(figure: go.Figure) -> str:
    """A legend of buttons, one per named trace that has a role; one trace needs none.

    A trace's name is escaped already: plotly reads it as markup. The script enables the buttons.
    """
    entries: dict[str, tuple[dict, list[int]]] = {}
    for index, trace in enumerate(figure.data):
        meta = trace.meta
        if trace.name and isinstance(meta, dict) and "role" in meta:
            entries.setdefault(trace.name, (meta, []))[1].append(index)
    if len(entries) < 2:
        return ""
    items = "".join(
        f'<li><button type="button" disabled aria-pressed="true" '
        f'data-traces="{",".join(map(str, at))}">'
        f"{_swatch(meta)}{safe(unescape(name))}</button></li>"
        for name, (meta, at) in entries.items()
    )
    return f'<ul class="legend">{items}</ul>'


def _swatch(meta: dict) -> str:
    role = str(meta["role"]).replace("_", "-")
    kind = meta.get("swatch")
    if kind == "band":
        shape = f'<rect x="1" y="4" width="20" height="6" rx="1" fill="var(--{role})"/>'
    elif kind == "marker":
        shape = f'<path d="M6 3h10l-5 8z" fill="var(--{role})"/>'
    else:
        dash = DASH_PATTERNS.get(str(meta.get("dash")), "")
        width = min(2.5, max(1.5, float(meta.get("width", 2))))
        shape = (
            f'<path d="M1 7h20" fill="none" stroke="var(--{role})" stroke-width="{width}" '
            f'stroke-dasharray="{dash}"/>'
        )
    return f'<svg viewBox="0 0 22 14" aria-hidden="true">{shape}</svg>'


def panel_html(panel: Panel, static: str = "") -> str:
    """One panel: heading, finding, legend, plot (static until the script draws), notes, data.

    `static` is for figures that `still` cannot draw. One line, if there is no figure.
    """
    if panel.figure is None:
        said = f"<b>{safe(panel.title)}</b> {safe(panel.finding)} {safe(panel.empty)}"
        return f'<p class="empty" id="p-{panel.key}">{said}</p>'
    wide = " wide" if panel.wide else ""
    head = (
        f'<header><h3 id="h-{panel.key}">{safe(panel.title)}</h3>'
        f'<div class="tools">{_tools(panel)}</div></header>'
        f'<p class="finding">{safe(panel.finding)}</p>'
    )
    unit = f'<span class="unit">{safe(panel.unit)}</span>' if panel.unit else ""
    label = f"{panel.title}. {panel.finding}"
    static = static or still(panel.figure, wide=panel.wide)
    above = unit + legend_html(panel.figure)
    plot = (
        (f'<div class="above">{above}</div>' if above else "")
        + f'<div class="plot" id="plot-{panel.key}" role="img" aria-label="{safe(label)}" '
        f'style="min-height:{int(panel.figure.layout.height)}px">{static}</div>'
    )
    notes = "".join(f"<li>{safe(note)}</li>" for note in panel.notes)
    notes = f'<ul class="notes">{notes}</ul>' if notes else ""
    data = ""
    if panel.table is not None:
        data = (
            f"<details class=data><summary>Table of data</summary>{table_html(panel.table)}"
            "</details>"
        )
    extra = _controls(panel)
    return (
        f'<section class="panel{wide}" id="p-{panel.key}">{head}{extra[0]}{plot}{extra[1]}'
        f"{notes}{data}</section>"
    )


def _tools(panel: Panel) -> str:
    log = panel.figure.layout.yaxis.type == "log"
    buttons = []
    if panel.log_switch:
        buttons.append(
            f'<button type="button" data-act="log" aria-pressed="{str(log).lower()}">log</button>'
        )
    buttons.append('<button type="button" data-act="reset" hidden>reset zoom</button>')
    for act, said in (("png", "save this panel as an image"), ("csv", "save the drawn numbers")):
        buttons.append(
            f'<button type="button" data-act="{act}" title="{said}">{act.upper()}</button>'
        )
    return "".join(buttons)


def _controls(panel: Panel) -> tuple[str, str]:
    kind = panel.extra.get("kind")
    if kind == "layers":
        measures = "".join(
            f'<button type="button" data-measure="{i}" aria-pressed="{str(i == 0).lower()}">'
            f"{safe(measure['label'])}</button>"
            for i, measure in enumerate(panel.extra["measures"])
        )
        n = len(panel.extra["names"])
        more = (
            f'<button type="button" data-act="all" aria-pressed="false">all {n}</button>'
            if n > panel.extra["shown"]
            else ""
        )
        return (
            f'<div class="controls"><div class="segments" role="group" aria-label="measure">'
            f"{measures}</div><label class=filter><span>filter</span><input type=search "
            f'placeholder="attn" spellcheck=false aria-label="filter layers by name"></label>'
            f'{more}<output class="matched"></output></div>',
            "",
        )
    if kind == "spectrum":
        frames = panel.extra["frames"]
        last = len(frames) - 1
        return (
            "",
            f'<div class="slider"><label>step <output>{frames[-1]["step"]}</output>'
            f'<input type="range" min="0" max="{last}" value="{last}" step="1" '
            f'aria-label="step of the spectrum"></label></div>',
        )
    return "", ""


def verdict_html(verdict: Verdict, cards: str) -> str:
    """The top of the page."""
    rows = "".join(
        f'<li class="{finding.tone}"><b>{safe(finding.label)}</b>'
        f"<span>{safe(finding.text)}</span></li>"
        for finding in verdict.findings
    )
    return (
        f'<section id="verdict" class="verdict {verdict.tone}">'
        f'<p class="state"><span class="tag">{safe(verdict.tag)}</span></p>'
        f"<h1>{safe(verdict.headline)}</h1>"
        f'<ul class="findings">{rows}</ul>{cards}</section>'
    )


def section_html(key: str, title: str, panels: Sequence[str]) -> str:
    """A titled group of panels on the grid."""
    return (
        f'<section class="group" id="{key}"><h2>{safe(title)}</h2>'
        f'<div class="grid">{"".join(panels)}</div></section>'
    )
