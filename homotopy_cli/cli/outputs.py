"""What `homotopy probe` leaves behind: terminal tables, JSON, a log, a page, gates."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from homotopy_cli.cli.probe import ProbeOptions
from homotopy_cli.errors import HomotopyError

OF_BASELINE = "--compare OLD.pt"  # the option that gives gates a baseline


def check_targets(options: ProbeOptions) -> None:
    """Refuse absent checkpoints, and outputs that cannot be written or that are inputs."""
    from homotopy_cli.cli.refusals import Output, check_outputs, refuse_absent, target_files

    for checkpoint in filter(None, (options.checkpoint, options.compare)):
        refuse_absent(checkpoint, options.batch)
    outputs = [
        Output("--json", options.json, "JSON"),
        Output("--html", options.html, "HTML"),
        Output("--out", options.out, "HDF5"),
    ]
    inputs = [
        ("the checkpoint", options.checkpoint),
        ("the checkpoint of --compare", options.compare),
        *(("a batch", path) for path in options.batch),
        ("the text", options.text),
        *target_files(model=options.model, loss=options.loss),
        *_files_of_recipe(options.recipe),
    ]
    check_outputs(outputs, inputs)
    if options.out is not None and options.out.exists():
        raise HomotopyError(
            f"--out {options.out}: a log is already there",
            hint="give another name, or remove that file first",
        )
    refuse_gates(options)


def _files_of_recipe(path: Path | None) -> list[tuple[str, Path | None]]:
    """The recipe and what it names; what is wrong with it is said when it is needed."""
    from homotopy_cli.cli.refusals import recipe_files
    from homotopy_cli.recipe.load import open_recipe

    if path is None:
        return []
    try:
        return list(recipe_files(open_recipe(path)))
    except HomotopyError:
        return [("the recipe", path)]


def refuse_gates(options: ProbeOptions) -> None:
    """Refuse a gate that is no expression, or speaks of what no probe measures.

    Every name is known before the measurement. Columns of layers are not: they wait.
    """
    if not options.fail_on:
        return
    from homotopy_cli.cli.document import estimate_document
    from homotopy_cli.cli.edges import edge_ratios, edges
    from homotopy_cli.records import CurvatureEstimate, HvpCost
    from homotopy_cli.report.gates import evaluate_all

    unknown: dict[str, Any] = dict.fromkeys(("lambda_max", "lambda_min", "hessian_norm", "kappa"))
    nothing = CurvatureEstimate(
        n_params=0,
        n_terms=0,
        loss=0.0,
        grad_norm=0.0,
        eigenvalues=(),
        kappa_reason="",
        cost=HvpCost("", "", 0, 0.0, 0.0),
        **unknown,
    )
    edge = edges(nothing, None)
    made = estimate_document(nothing) | {
        "edges": edge,
        "edge_ratios": edge_ratios(edge, None),
        "lr": {"value": None},
        "optimizer": None,
        "noise": None,
        "interrupted": False,
    }
    baseline = made if options.compare is not None else None
    names = gate_names(made, baseline)
    known = [expression for expression in options.fail_on if "layers." not in expression]
    evaluate_all(known, names, baseline=OF_BASELINE)


def write_forecast(options: ProbeOptions, loaded: Any, forecast: Any) -> None:
    """What `--dry-run` answers on stdout."""
    from homotopy_cli.cli.document import SCHEMA_VERSION, write_json

    document = {
        "schema_version": SCHEMA_VERSION,
        "dry_run": True,
        "checkpoint": checkpoint_document(loaded),
        "n_params": loaded.problem.n_params,
        "n_examples": loaded.problem.n_terms,
        "n_terms": loaded.problem.n_terms,
        "forecast": {
            "n_hvp": forecast.n_hvp,
            "seconds": forecast.seconds,
            "memory_bytes": forecast.memory_bytes,
        },
    }
    if options.json != "-":
        problem = loaded.problem
        for note in loaded.notes:
            print(note)
        print(
            f"{options.checkpoint}: {problem.n_params:,} parameters, loss "
            f"{problem.criterion_name}; about {forecast.n_hvp:.0f} products, "
            f"{forecast.seconds:.1f} s; nothing was measured"
        )
    if options.json is not None:
        write_json(document, options.json)


def checkpoint_document(loaded: Any) -> dict[str, Any]:
    """Which file, which set of weights, what was stripped."""
    checkpoint = loaded.checkpoint
    return {
        "path": str(checkpoint.path),
        "kind": checkpoint.kind,
        "entry": checkpoint.entry or None,
        "entries": list(checkpoint.entries),
        "prefix_removed": checkpoint.prefix_removed or None,
        "notes": list(loaded.notes),
    }


def probe_document(options: ProbeOptions, found: Any) -> dict[str, Any]:
    """The whole JSON document of one probe."""
    from homotopy_cli.cli import document
    from homotopy_cli.cli.edges import edge_ratios, edges, rate_in_use

    subject, estimate, metric = found.subject, found.estimate, found.subject.metric
    edge = edges(estimate, metric)
    lr, source = rate_in_use(options.lr, metric)
    made = {
        **document.estimate_document(estimate),
        "checkpoint": checkpoint_document(subject),
        "criterion": subject.problem.criterion_name,
        "optimizer": None
        if metric is None
        else {"name": metric.name, "lr": metric.lr, "threshold": metric.threshold},
        "edges": edge,
        "lr": {"value": document.number(lr), "source": source or None},
        "edge_ratios": edge_ratios(edge, lr),
        "lr_range": [document.strict(asdict(r)) for r in found.lr_ranges],
        "noise": document.noise(found.noise),
        "frozen": list(subject.problem.frozen),
        "not_reached": [b.name for b in estimate.blocks if b.state == "not_reached"]
        or list(estimate.not_reached),
        "interrupted": found.interrupted,
    }
    if found.validation:
        made["validation"] = document.validation(found.validation)
    return made


def deliver(options: ProbeOptions, found: Any, other: Any | None) -> int:
    """Say what was found, write what was asked for, then let the gates decide the exit code.

    Raises:
        HomotopyError: An output could not be written; all others were, and everything was said.
    """
    from homotopy_cli.cli.compare import comparison
    from homotopy_cli.cli.document import write_json
    from homotopy_cli.cli.probe_log import write_log, write_page
    from homotopy_cli.cli.writing import write_all

    made = probe_document(options, found)
    baseline = None
    if other is not None:
        baseline = probe_document(options, other)
        made["baseline"] = baseline
        made["comparison"] = comparison(made, baseline)
    if options.json != "-":
        show(options, found, made)
    writes: list[Callable[[], None]] = []
    if options.json is not None:
        writes.append(lambda: write_json(made, options.json))
    if options.out is not None:
        writes.append(lambda: write_log(options.out, options, found))
    if options.html is not None:
        writes.append(lambda: write_page(options, found))
    unwritten = write_all(writes)
    code = apply_gates(options.fail_on, made, baseline)
    if unwritten is not None:
        raise unwritten
    return code


def show(options: ProbeOptions, found: Any, made: dict[str, Any]) -> None:
    """Sentences and tables on stdout."""
    from homotopy_cli.cli import compare, render, sentences

    console, estimate = render.console(), found.estimate
    kind = estimate.curvature
    for line in sentences.headline(found.subject, estimate, made):
        console.print(line, markup=False)
    render.print_table(console, render.overall_table(estimate))
    if estimate.blocks:
        layers = render.layer_table(estimate.blocks, curvature=kind, width=console.width)
        render.print_table(console, layers)
    if estimate.density is not None:
        error = estimate.density.cdf_stderr
        spread = f"; s.e. of the share below any λ at most {error:.1g}" if error else ""
        console.print(f"Spectral density (share of eigenvalues, log scale{spread})", style="bold")
        for line in render.density_lines(estimate.density):
            console.print("  " + line, markup=False)
    if found.validation:
        render.print_table(console, render.validation_table(found.validation, kind))
    if "comparison" in made:
        render.print_table(console, compare.table(made, options.compare))
    for line in (
        *(["Interrupted: what follows is what was measured by then."] if found.interrupted else []),
        *sentences.closing(estimate),
        *sentences.noise_sentences(found.noise),
        *sentences.range_sentences(found.lr_ranges, made["edges"]),
    ):
        console.print(line, markup=False)


def apply_gates(
    expressions: Sequence[str],
    document: dict[str, Any],
    baseline: dict[str, Any] | None,
) -> int:
    """1 when one of the expressions is true of the document, else 0."""
    if not expressions:
        return 0
    from homotopy_cli.report.gates import evaluate_all

    names = gate_names(document, baseline)
    failed = [
        gate for gate in evaluate_all(expressions, names, baseline=OF_BASELINE) if gate.failed
    ]
    for gate in failed:
        print(gate.alarm, file=sys.stderr)
    return int(bool(failed))


def gate_names(document: dict[str, Any], baseline: dict[str, Any] | None = None) -> dict[str, Any]:
    """Names a `--fail-on` expression may use: scalars, `.value`s flattened, and `layers`."""
    names: dict[str, Any] = {"layers": document["layers"]}
    for key, value in document.items():
        if isinstance(value, dict) and "value" in value:
            names[key] = value["value"]
        elif isinstance(value, bool | int | float) or value is None:
            names[key] = value
    for name, value in document["edges"].items():
        names[f"edge_{name}"] = value
    for name, value in document["edge_ratios"].items():
        names[f"edge_ratio_{name}"] = value
    if baseline is not None:
        names["baseline"] = gate_names(baseline)
    return names
