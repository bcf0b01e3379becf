"""What `homotopy probe` leaves behind: terminal tables, JSON, a one-row log, a page, gates."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from homotopy_cli.cli.probe import ProbeOptions
from homotopy_cli.errors import HomotopyError


def check_targets(options: ProbeOptions) -> None:
    """Refuse outputs that cannot be written before any work is done."""
    from homotopy_cli.cli.document import refuse_missing_folders

    files = [options.out, options.html]
    if options.json not in (None, "-"):
        files.append(Path(str(options.json)))
    refuse_missing_folders(files)
    if options.out is not None and options.out.exists():
        raise HomotopyError(
            f"--out {options.out}: a log is already there",
            hint="give another name, or remove that file first",
        )


def write_forecast(options: ProbeOptions, loaded: Any, forecast: Any) -> None:
    """What `--dry-run` answers on stdout."""
    from homotopy_cli.cli.document import SCHEMA_VERSION, write_json

    document = {
        "schema_version": SCHEMA_VERSION,
        "dry_run": True,
        "checkpoint": checkpoint_document(loaded),
        "n_params": loaded.problem.n_params,
        "n_examples": loaded.problem.n_terms,
        "forecast": {
            "n_hvp": forecast.n_hvp,
            "seconds": forecast.seconds,
            "memory_bytes": forecast.memory_bytes,
        },
    }
    if options.json is not None:
        write_json(document, options.json)
    if options.json != "-":
        print(
            f"{options.checkpoint}: {loaded.problem.n_params:,} parameters; about "
            f"{forecast.n_hvp:.0f} products, {forecast.seconds:.1f} s; nothing was measured"
        )


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


def edges(estimate: Any, loaded: Any) -> dict[str, Any]:
    """Learning rates at which a quadratic with this sharpness starts to diverge.

    SGD 2/λ_max; heavy ball 2(1+β)/λ_max at β = 0.9; the checkpoint's own adaptive optimizer
    c/λ_max(P⁻¹H), where its state is at hand. None where λ <= 0: no such edge.
    """
    from homotopy_cli.cli.render import MOMENTUM

    top = estimate.lambda_max.value if estimate.lambda_max is not None else None
    ok = top is not None and top > 0
    found: dict[str, Any] = {
        "sgd": 2.0 / top if ok else None,
        "momentum": 2.0 * (1.0 + MOMENTUM) / top if ok else None,
        "adam": None,
    }
    sharp = estimate.preconditioned_sharpness
    if sharp is not None and sharp.value > 0 and loaded.metric is not None:
        found["adam"] = loaded.metric.threshold / sharp.value
    return found


def probe_document(
    loaded: Any, estimate: Any, noise: Any, records: Sequence[Any]
) -> dict[str, Any]:
    """The whole JSON document of one probe."""
    from homotopy_cli.cli import document

    made = {
        **document.estimate_document(estimate),
        "checkpoint": checkpoint_document(loaded),
        "criterion": loaded.problem.criterion_name,
        "optimizer": None
        if loaded.metric is None
        else {
            "name": loaded.metric.name,
            "lr": loaded.metric.lr,
            "threshold": loaded.metric.threshold,
        },
        "edges": edges(estimate, loaded),
        "noise": document.noise(noise),
        "frozen": list(loaded.problem.frozen),
        "not_reached": [b.name for b in estimate.blocks if b.state == "not_reached"],
    }
    if records:
        made["validation"] = document.validation(records)
    return made


def deliver(
    options: ProbeOptions, loaded: Any, estimate: Any, noise: Any, records: Sequence[Any]
) -> int:
    """Write every output that was asked for, then let the gates decide the exit code."""
    from homotopy_cli.cli.document import write_json

    made = probe_document(loaded, estimate, noise, records)
    if options.json is not None:
        write_json(made, options.json)
    if options.json != "-":
        show(loaded, estimate, noise, records, made["edges"])
    if options.out is not None or options.html is not None:
        write_log_and_page(options, loaded, estimate)
    return apply_gates(options.fail_on, made)


def show(
    loaded: Any, estimate: Any, noise: Any, records: Sequence[Any], edge: dict[str, Any]
) -> None:
    """Sentences and tables on stdout."""
    from homotopy_cli.cli import render, sentences

    console = render.console()
    for line in sentences.headline(loaded, estimate, edge):
        console.print(line, markup=False)
    console.print(render.overall_table(estimate))
    if estimate.blocks:
        console.print(render.layer_table(estimate.blocks, width=console.width))
    if estimate.density is not None:
        error = estimate.density.cdf_stderr
        spread = f"; s.e. of a share at most {error:.1e}" if error else ""
        console.print(f"Spectral density (share of eigenvalues, log scale{spread})", style="bold")
        for line in render.density_lines(estimate.density):
            console.print("  " + line, markup=False)
    if records:
        console.print(render.validation_table(records))
    for line in (*sentences.closing(estimate), *sentences.noise_sentences(noise)):
        console.print(line, markup=False)


def write_log_and_page(options: ProbeOptions, loaded: Any, estimate: Any) -> None:
    """A log with one row, and the page made from it, so that `report` has one input format."""
    import tempfile

    from homotopy_cli.report.page import render
    from homotopy_cli.runlog.reader import read_log

    with tempfile.TemporaryDirectory() as folder:
        path = options.out or Path(folder) / "probe.h5"
        write_log(path, options, loaded, estimate)
        if options.html is not None:
            from homotopy_cli.cli.document import write_text

            write_text(str(options.html), render([read_log(path)]))


def write_log(path: Path, options: ProbeOptions, loaded: Any, estimate: Any) -> None:
    import platform

    import numpy as np

    from homotopy_cli._version import __version__
    from homotopy_cli.records import EventRecord, ProbeRecord, RunInfo
    from homotopy_cli.runlog.writer import RunWriter

    blocks = estimate.blocks
    checkpoint = loaded.checkpoint
    info = RunInfo(
        run_id=f"probe of {Path(checkpoint.path).name}",
        layers=tuple(b.name for b in blocks),
        layer_numel=tuple(b.n_params for b in blocks),
        layer_kind=tuple(b.kind for b in blocks),
        recipe_source=checkpoint.recipe_source or "",
        recipe_resolved=checkpoint.recipe or {},
        environment={"homotopy": __version__, "python": platform.python_version()},
        argv=("homotopy", "probe", Path(checkpoint.path).name),
        seed=options.seed,
        n_params=estimate.n_params,
        created_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    step = int(checkpoint.extra.get("step") or 0)

    def column(pick: Any) -> np.ndarray:
        picked = [pick(b) for b in blocks]
        return np.array([np.nan if v is None else v for v in picked], dtype=np.float32)

    layers = {
        "layer_kappa": column(lambda b: b.kappa),
        "layer_lambda_max": column(lambda b: b.lambda_max),
        "layer_trace": column(lambda b: None if b.trace is None else b.trace.value),
        "layer_grad_norm": column(lambda b: b.grad_norm),
    }
    density = estimate.density
    if density is not None:
        spectrum = (density.nodes, density.weights)
    else:
        values = np.array([e.value for e in estimate.eigenvalues])
        spectrum = (values, np.full(len(values), 1.0 / max(1, len(values))))
    with RunWriter.create(path, info) as writer:
        writer.append_probe(
            ProbeRecord(step, probe_values(estimate), layers if blocks else {}, spectrum)
        )
        for warning in estimate.warnings:
            writer.append_event(EventRecord(step, "warning", "PROBE", warning))
        writer.close("finished")


def probe_values(estimate: Any) -> dict[str, float]:
    """The columns a training probe fills, and what only a thorough one measures."""
    from homotopy_cli.schedulers.probing import columns

    more = {
        "residual": estimate.lambda_max and estimate.lambda_max.residual,
        "converged": estimate.converged,
        "gradient_equivalents": estimate.cost.gradient_equivalents,
        "probe_seconds": estimate.cost.seconds,
        "trace": estimate.trace and estimate.trace.value,
        "trace_stderr": estimate.trace and estimate.trace.stderr,
    }
    return columns(estimate) | {k: float(v) for k, v in more.items() if v is not None}


def apply_gates(expressions: Sequence[str], document: dict[str, Any]) -> int:
    """1 when one of the expressions is true of the document, else 0."""
    if not expressions:
        return 0
    from homotopy_cli.report.gates import evaluate

    names = gate_names(document)
    fired = 0
    for expression in expressions:
        result = evaluate(expression, names)
        if result.failed:
            fired = 1
            print(f"gate fired: {result.message}", file=sys.stderr)
    return fired


def gate_names(document: dict[str, Any]) -> dict[str, Any]:
    """Names a `--fail-on` expression may use: scalars, `.value`s flattened, and `layers`."""
    names: dict[str, Any] = {"layers": document["layers"]}
    for key, value in document.items():
        if isinstance(value, dict) and "value" in value:
            names[key] = value["value"]
        elif isinstance(value, bool | int | float) or value is None:
            names[key] = value
    for name, value in document["edges"].items():
        names[f"edge_{name}"] = value
    return names
