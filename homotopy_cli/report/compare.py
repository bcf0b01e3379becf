"""Several runs on one page: what differs first, then every curve overlaid."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from homotopy_cli.report import words
from homotopy_cli.report.arms import Arm, arms, flattened, in_order, names_by_recipe
from homotopy_cli.report.escaping import safe
from homotopy_cli.report.facts import file_name, recipe, run_name, setting
from homotopy_cli.report.figures.bands import bands_panel
from homotopy_cli.report.figures.draw import add_level, add_line, log_axis
from homotopy_cli.report.figures.loss import smoothing_window
from homotopy_cli.report.figures.sweep import sweep_panel
from homotopy_cli.report.gates import GateResult
from homotopy_cli.report.judging import with_gates
from homotopy_cli.report.labels import agreed_name, difference, label, metric_text, shares
from homotopy_cli.report.markup import panel_html, section_html, verdict_html
from homotopy_cli.report.metrics import METRICS, summarise
from homotopy_cli.report.panel import Panel, Table, balanced, shared_notes
from homotopy_cli.report.seeds import endpoint_table, seeds_verdict
from homotopy_cli.report.series import column, curve, probed, trailing_mean, wants_log
from homotopy_cli.report.several import headline, layers_table
from homotopy_cli.report.single import Body, Group
from homotopy_cli.report.tables import gates_html, meanings_html, table_html
from homotopy_cli.report.theme import base_figure, run_style
from homotopy_cli.runlog.reader import RunLog

# key, title, table of the log, column, unit, smoothed, wide
OVERLAYS = (
    ("loss", "Training loss", "steps", "loss", "loss, smoothed", True, True),
    ("eval", "Held-out loss", "evals", "eval_loss", "loss", False, True),
    ("lr", "Learning rate", "steps", "lr", "lr", False, True),
    ("edge", "Edge ratio", "probes", "edge_ratio", "lr × sharpness ÷ threshold", False, True),
    ("eigenvalues", "Sharpness λ_max", "probes", "lambda_max", "loss / parameter²", False, False),
    ("kappa", "Curvature ratio κ", "probes", "kappa", "1 / loss", False, False),
    ("norms", "Gradient norm", "steps", "grad_norm", "loss / parameter", True, False),
)

_NO_LAYERS = '<p class="empty">No run recorded curvature per layer.</p>'


def compare_body(
    logs: Sequence[RunLog], *, baseline: RunLog | None = None, gates: Sequence[GateResult] = ()
) -> Body:
    """The body of a page about several runs; a baseline becomes one more, grey, run."""
    logs = in_order(logs)
    runs = [*logs, baseline] if baseline is not None else list(logs)
    names = distinct_names(runs, baseline)
    metrics = [summarise(run) for run in runs]
    reference = len(runs) - 1 if baseline is not None else 0
    seeded = _seeded(logs, baseline)
    if seeded:
        panels = [
            bands_panel(runs, seeded, *row, last_is_baseline=baseline is not None)
            for row in OVERLAYS
        ]
    else:
        panels = [overlay(runs, names, baseline is not None, *row) for row in OVERLAYS]
    table = table_html(metrics_table(names, metrics, reference=reference, logs=runs))
    arm_names = [arm.name for arm in seeded]
    curved = layers_table([[run] for run in runs], names)
    if seeded:
        n = words.plural(len(runs), "run")
        table = f"<details class=data><summary>Every metric of {n}</summary>{table}</details>"
        table = table_html(endpoint_table(seeded, metrics)) + table
        curved = layers_table([[runs[i] for i in arm.runs] for arm in seeded], arm_names)
        runs, names = [runs[arm.runs[0]] for arm in seeded], arm_names
    drawn = balanced(
        [replace(p, notes=shared_notes(p.notes, names)) for p in panels if p is not None]
    )
    sweep = sweep_panel(logs, metrics[: len(logs)])
    groups: list[Group] = [("curves", "Curves", drawn)]
    if sweep is not None:
        groups.insert(0, ("sweep", "Learning-rate sensitivity", (sweep,)))
    found = seeds_verdict(seeded, logs, metrics) if seeded else headline(logs, names, metrics)
    html = [
        verdict_html(with_gates(found, gates), gates_html(gates)),
        _section("metrics", "Metrics", table + meanings_html()),
        *(section_html(k, title, [panel_html(p) for p in group]) for k, title, group in groups),
        _section("layers", "Most curved layers", table_html(curved) if curved else _NO_LAYERS),
        _section("recipes", "What differs in the recipes", _recipe_diff(runs, names)),
    ]
    sections = [
        ("verdict", "Verdict"),
        *([("gates", "Gates")] if gates else []),
        ("metrics", "Metrics"),
        *((key, title) for key, title, _ in groups),
        ("layers", "Layers"),
        ("recipes", "Recipes"),
    ]
    panels_all = tuple(panel for _, _, group in groups for panel in group)
    return Body("\n".join(part for part in html if part), panels_all, tuple(sections))


def _seeded(logs: Sequence[RunLog], baseline: RunLog | None) -> list[Arm]:
    """The arms, the baseline last, if any of them ran with more than one seed; else none."""
    found = arms(logs)
    if not any(arm.seeded for arm in found):
        return []
    if baseline is not None:
        found.append(Arm("baseline", (len(logs),), (None,)))
    return found


def distinct_names(runs: Sequence[RunLog], baseline: RunLog | None = None) -> list[str]:
    """One name per run, all different.

    The settings that tell the recipes apart if they are few, else the run's name, with its
    folder if that is needed; the folder alone where no recipe has a name of its own.
    """
    own = runs if baseline is None else runs[:-1]  # the baseline comes last, and may be one of them
    if (told := names_by_recipe(own)) is not None:
        return [*told, *(["baseline"] if baseline is not None else [])]
    plain = ["baseline" if run is baseline else run_name(run) for run in runs]
    files = [file_name(run) for run in runs]
    folders = [(["", *str(run.path).replace("\\", "/").split("/")])[-2] for run in runs]
    if len(set(files)) == len(files) and not any(setting(run, "name") for run in runs):
        plain = ["baseline" if run is baseline else f for run, f in zip(runs, files, strict=True)]
    elif len(set(folders)) == len(folders) and not any(setting(run, "name") for run in runs):
        plain = ["baseline" if run is baseline else f for run, f in zip(runs, folders, strict=True)]
    if len(set(plain)) < len(plain):
        plain = [
            name if plain.count(name) == 1 or not folder else f"{name} · {folder}"
            for name, folder in zip(plain, folders, strict=True)
        ]
    seen: dict[str, int] = {}
    named = []
    for name in plain:
        seen[name] = seen.get(name, 0) + 1
        named.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return named


def overlay(
    runs: Sequence[RunLog],
    names: Sequence[str],
    last_is_baseline: bool,
    key: str,
    title: str,
    table: str,
    source: str,
    unit: str,
    smooth: bool,
    wide: bool,
) -> Panel | None:
    """One column of every run in one figure; None if no run has it."""
    steps_of = {"steps": "step", "probes": "probe_step", "evals": "eval_step"}[table]
    columns = [column(getattr(run, table), source) for run in runs]
    if all(values is None for values in columns):
        return None
    known = [values for values in columns if values is not None]
    positive = wants_log(np.concatenate(known))
    figure = base_figure(height=320 if wide else 280)
    if positive:
        log_axis(figure)
    notes: list[str] = []
    for i, (run, name, values) in enumerate(zip(runs, names, columns, strict=True)):
        if values is None:
            notes.append(f"{name}: no column {source}")
            continue
        shown = trailing_mean(values, smoothing_window(len(values))) if smooth else values
        steps = getattr(run, steps_of)
        if table == "probes":
            steps, shown = probed(run, source)
        line = curve(steps, shown, f"{name}: {source}", positive=positive)
        role, dash = run_style(i, baseline=last_is_baseline and i == len(runs) - 1)
        short = safe(words.shorten(name, 40))
        add_line(figure, line, name=short, label=name, width=1.9, role=role, dash=dash)
        notes += line.notes
    if source == "edge_ratio":
        add_level(figure, 1.0, label="edge of stability", role="red")
    finding = words.sentences([_extremes(names, columns)])
    return Panel(
        key,
        title,
        finding,
        figure,
        unit,
        tuple(notes),
        _ends_table(names, columns),
        wide=wide,
        log_switch=True,
    )


def _ends(values: np.ndarray | None) -> np.ndarray:
    return np.empty(0) if values is None else values[np.isfinite(values)]


def _extremes(names: Sequence[str], columns: Sequence[np.ndarray | None]) -> str:
    lasts = [
        (float(_ends(values)[-1]), name)
        for name, values in zip(names, columns, strict=True)
        if len(_ends(values))
    ]
    if not lasts:
        return "no finite value"
    low, high = min(lasts), max(lasts)
    if low[0] == high[0]:
        return f"all end at {words.number(low[0])}"
    return (
        f"at the end between {words.number(low[0])} ({low[1]}) and "
        f"{words.number(high[0])} ({high[1]})"
    )


def _ends_table(names: Sequence[str], columns: Sequence[np.ndarray | None]) -> Table:
    rows = []
    for name, values in zip(names, columns, strict=True):
        finite = _ends(values)
        numbers = (
            (finite[0], finite[-1], finite.min(), finite.max()) if len(finite) else (None,) * 4
        )
        total = words.count(0 if values is None else len(values))
        rows.append((name, total, *(words.number(x) for x in numbers)))
    return Table(("run", "rows", "first", "last", "smallest", "largest"), tuple(rows))


def metrics_table(
    names: Sequence[str],
    metrics: Sequence[Mapping[str, float | int | None]],
    *,
    reference: int = 0,
    logs: Sequence[RunLog] = (),
) -> Table:
    """Every metric of every run, with its difference from the reference run."""
    rows = []
    for metric in METRICS:
        values = [run[metric] for run in metrics]
        if all(value is None for value in values):
            continue
        cells, named = [], agreed_name(metric, logs)
        points = shares(metric, named)
        for i, value in enumerate(values):
            text = metric_text(metric, value, named)
            change = "" if i == reference else difference(value, values[reference], points)
            cells.append(f"{text} ({change})" if change else text)
        rows.append((label(metric, logs), *cells))
    caption = f"In brackets: difference from {names[reference]}"
    return Table(("metric", *names), tuple(rows), caption)


def _recipe_diff(runs: Sequence[RunLog], names: Sequence[str]) -> str:
    flat = [dict(flattened(recipe(run))) for run in runs]
    keys = sorted({key for settings in flat for key in settings})
    rows = tuple(
        (key, *(settings.get(key, words.NONE) for settings in flat))
        for key in keys
        if len({settings.get(key) for settings in flat}) > 1
    )
    if not rows:
        said = "The recipes are the same." if keys else "No log holds a recipe."
        return f'<p class="empty">{safe(said)}</p>'
    return table_html(Table(("setting", *names), rows, "", tuple(range(len(names) + 1))))


def _section(key: str, title: str, inner: str) -> str:
    return f'<section class="group compare" id="{key}"><h2>{safe(title)}</h2>{inner}</section>'
