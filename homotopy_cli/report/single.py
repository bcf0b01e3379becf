"""The body of a page about one run: verdict, gates, panels in groups, events, facts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from homotopy_cli.report import words
from homotopy_cli.report.arms import flattened
from homotopy_cli.report.escaping import safe
from homotopy_cli.report.events import events_html
from homotopy_cli.report.facts import is_probe, marks, scheduler_name, setting
from homotopy_cli.report.facts import recipe as read_recipe
from homotopy_cli.report.figures.components import COMPONENTS, components_panel
from homotopy_cli.report.figures.curvature import eigenvalue_panel, kappa_panel, sharpness_panel
from homotopy_cli.report.figures.draw import add_marks
from homotopy_cli.report.figures.edge import edge_panel
from homotopy_cli.report.figures.layers import component_layers_panel, layers_panel
from homotopy_cli.report.figures.loss import loss_panel
from homotopy_cli.report.figures.lr import lr_panel
from homotopy_cli.report.figures.norms import norms_panel
from homotopy_cli.report.figures.overhead import overhead_panel
from homotopy_cli.report.figures.signs import signs_panel
from homotopy_cli.report.figures.spectrum import spectrum_panel
from homotopy_cli.report.gates import GateResult
from homotopy_cli.report.judging import with_gates
from homotopy_cli.report.layers import COMPONENT_MEASURES, MEASURES, rank
from homotopy_cli.report.markup import panel_html, section_html, verdict_html
from homotopy_cli.report.metrics import summarise
from homotopy_cli.report.panel import Panel, balanced, worth_showing
from homotopy_cli.report.series import column
from homotopy_cli.report.sparkline import bar_list
from homotopy_cli.report.tables import card_list, cards_html, facts_html, gates_html, meanings_html
from homotopy_cli.report.verdict import verdict
from homotopy_cli.runlog.reader import RunLog


@dataclass(frozen=True)
class Body:
    """What goes between the page's header and footer."""

    html: str
    panels: tuple[Panel, ...]
    sections: tuple[tuple[str, str], ...]  # (id, label) for the navigation


Group = tuple[str, str, tuple[Panel, ...]]


def run_body(
    log: RunLog, *, baseline: RunLog | None = None, gates: Sequence[GateResult] = ()
) -> Body:
    """Everything about one run."""
    metrics = summarise(log)
    before = summarise(baseline) if baseline is not None else None
    groups = _probe_groups(log) if is_probe(log) else _training_groups(log, baseline)
    shown = [(key, title, balanced(worth_showing(panels))) for key, title, panels in groups]
    groups = [group for group in shown if group[2]]
    cards = _probe_cards(log)
    if not is_probe(log):
        cards = cards_html(log, metrics, before) + meanings_html()
    parts = [verdict_html(with_gates(verdict(log), gates), gates_html(gates) + cards)]
    for key, title, panels in groups:
        parts.append(section_html(key, title, [panel_html(p, static(log, p)) for p in panels]))
    parts += [events_section(log), facts_section(log)]
    sections = [
        ("verdict", "Verdict"),
        *([("gates", "Gates")] if gates else []),
        *((key, title) for key, title, _ in groups),
        ("events", "Events"),
        ("run", "Run"),
    ]
    panels = tuple(panel for _, _, group in groups for panel in group)
    return Body("\n".join(part for part in parts if part), panels, tuple(sections))


def _training_groups(log: RunLog, baseline: RunLog | None) -> list[Group]:
    groups: list[Group] = [
        ("training", "Training", (loss_panel(log, baseline), lr_panel(log, baseline))),
        (
            "stability",
            "Stability",
            (
                edge_panel(log, baseline),
                sharpness_panel(log),
                eigenvalue_panel(log),
                kappa_panel(log, baseline),
                norms_panel(log),
                signs_panel(log),
            ),
        ),
        ("layers", "Layers", (layers_panel(log),)),
        ("structure", "Spectrum and cost", (spectrum_panel(log), overhead_panel(log))),
        ("components", "Attention, norms, output", _component_panels(log)),
    ]
    lines = marks(log)
    for _, _, panels in groups:
        for panel in panels:
            if panel.figure is not None and panel.linked:
                add_marks(panel.figure, lines)
    return groups


def _probe_groups(log: RunLog) -> list[Group]:
    groups: list[Group] = [
        ("structure", "Spectrum", (spectrum_panel(log),)),
        ("layers", "Layers", (layers_panel(log),)),
    ]
    if any(column(log.probes, name) is not None for name, *_ in COMPONENTS):
        groups.append(("components", "Attention, norms, output", _component_panels(log)))
    return groups


def _component_panels(log: RunLog) -> tuple[Panel, ...]:
    by_layer = component_layers_panel(log)
    return (components_panel(log), *(() if by_layer is None else (by_layer,)))


# Value -> the column of its error: residuals of eigenvalues, a standard error.
_ERRORS = {
    "lambda_max": "residual",
    "preconditioned_sharpness": "preconditioned_residual",
    "trace": "trace_stderr",
}


def _probe_cards(log: RunLog) -> str:
    shown = (
        ("loss", "probe_loss"),
        ("gradient norm", "probe_grad_norm"),
        ("λ_max", "lambda_max"),
        ("λ_min", "lambda_min"),
        ("‖H‖", "hessian_norm"),
        ("κ", "kappa"),
        ("λ_max(P⁻¹H)", "preconditioned_sharpness"),
        ("trace", "trace"),
        ("products", "n_hvp"),
        ("seconds", "probe_seconds"),
    )
    cards = []
    for label, name in shown:
        values = column(log.probes, name)
        if values is None:
            continue
        error = column(log.probes, _ERRORS[name]) if name in _ERRORS else None
        small = ""
        if error is not None:
            small = f"<small>± {words.number(float(error[-1]), 2)}</small>"
        cards.append(
            f'<div class="card"><dt>{safe(label)}</dt>'
            f"<dd>{safe(words.number(float(values[-1])))}{small}</dd></div>"
        )
    return card_list(cards)


_STATIC_LAYERS = {"layers": MEASURES, "component-layers": COMPONENT_MEASURES}


def static(log: RunLog, panel: Panel) -> str:
    """A heat map of layers without scripts: bars of the latest values. Others draw themselves."""
    if panel.figure is None or panel.key not in _STATIC_LAYERS:
        return ""
    return _static_layers(log, _STATIC_LAYERS[panel.key])


def _static_layers(log: RunLog, measures: Mapping[str, tuple[str, str]]) -> str:
    ranking = rank(log, measures)
    if ranking is None:
        return ""
    top = ranking.order[:16]
    rows = [(log.layers[i], float(ranking.latest[i])) for i in top]
    return bar_list([(name, value) for name, value in rows if np.isfinite(value)])


def events_section(log: RunLog) -> str:
    """The events table."""
    return f'<section class="group" id="events"><h2>Events</h2>{events_html(log.events)}</section>'


def facts_section(log: RunLog) -> str:
    """Run facts, the recipe's exact text, the environment."""
    provenance = log.provenance
    optimizer = setting(log, "optimizer", "name") or setting(log, "optimizer")
    argv = provenance.get("argv") or ()
    n_params = provenance.get("n_params")
    pairs: list[tuple[str, object]] = [
        ("run", log.attrs.get("run_id")),
        ("status", log.attrs.get("status")),
        ("started", log.attrs.get("created_utc")),
        ("written by", log.attrs.get("writer")),
        ("steps", words.count(len(log.step)) if len(log.step) else None),
        ("probes", words.count(len(log.probe_step)) if len(log.probe_step) else None),
        ("parameters", words.count(n_params) if n_params else None),
        ("layers", words.count(len(log.layers)) if log.layers else None),
        ("optimizer", optimizer if isinstance(optimizer, str) else None),
        ("scheduler", scheduler_name(log)),
        ("seed", provenance.get("seed")),
        ("attempts", log.attrs.get("attempts") if log.attrs.get("attempts") != 1 else None),
        ("command", argv if isinstance(argv, str) else " ".join(map(str, argv))),
    ]
    environment = provenance.get("environment") or {}
    if hasattr(environment, "items"):
        told = facts_html([(str(k), v) for k, v in sorted(environment.items())])
    else:
        told = f"<pre>{safe(environment)}</pre>"
    source = provenance.get("recipe_source") or ""
    recipe = (
        f"<pre>{_lines(str(source))}</pre>"
        if source
        else '<p class="empty">This log holds no recipe.</p>'
    )
    settings = flattened(read_recipe(log))
    if settings:
        lines = "\n".join(f"{key}: {value}" for key, value in settings)
        recipe += (
            "<details class=data><summary>Every setting as it was used</summary>"
            f"<pre>{_lines(lines)}</pre></details>"
        )
    nothing = '<p class="empty">This log holds no run facts.</p>'
    return (
        '<section class="group" id="run"><h2>Run</h2><div class="grid">'
        f'<section class="panel wide"><h3>Facts</h3><div>{facts_html(pairs) or nothing}</div>'
        "</section>"
        f'<section class="panel wide"><h3>Recipe</h3>{recipe}</section>'
        + (f'<section class="panel wide"><h3>Environment</h3>{told}</section>' if told else "")
        + "</div></section>"
    )


def _lines(text: str) -> str:
    """Exact text, line breaks kept, each line escaped."""
    return "\n".join(safe(line.replace("\t", "    ")) for line in text.split("\n"))
