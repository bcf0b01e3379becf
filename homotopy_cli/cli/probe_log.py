"""A probe as a log with one row, and the page made from it."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from homotopy_cli.cli.probe import ProbeOptions
from homotopy_cli.errors import HomotopyError, LogError


def write_page(options: ProbeOptions, found: Any) -> None:
    """`--html`: made from a log with one row, so that `report` has one input format.

    Raises:
        HomotopyError: The page, or the log that it is made from, cannot be written.
    """
    from homotopy_cli.cli.writing import write_text
    from homotopy_cli.report.page import render
    from homotopy_cli.runlog.reader import read_log

    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "probe.h5"
            write_log(path, options, found)
            page = render([read_log(path)])
    except OSError as error:
        raise HomotopyError(
            f"{options.html}: no room for the log that it is made from: {error.strerror or error}",
            hint="TMPDIR=FOLDER names another place for temporary files",
        ) from error
    write_text(options.html, page)


def write_log(path: Path, options: ProbeOptions, found: Any) -> None:
    """A log with one row at `path`, where nothing is yet.

    Raises:
        LogError: It cannot be written; nothing of it is left.
    """
    import platform

    import numpy as np

    from homotopy_cli._version import __version__
    from homotopy_cli.curvature.components_columns import component_layers
    from homotopy_cli.records import EventRecord, ProbeRecord, RunInfo
    from homotopy_cli.runlog.journal import journal_path
    from homotopy_cli.runlog.writer import RunWriter

    estimate, checkpoint = found.estimate, found.subject.checkpoint
    blocks = estimate.blocks
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
    of_h = estimate.curvature != "preconditioned"  # what the log's columns promise
    layers = layers if of_h else {}
    if estimate.components is not None:
        layers |= component_layers(estimate.components, [b.parameters for b in blocks])
    density = estimate.density
    if density is not None:
        spectrum = (density.nodes, density.weights)
    else:
        values = np.array([e.value for e in estimate.eigenvalues])
        spectrum = (values, np.full(len(values), 1.0 / max(1, len(values))))
    writer = RunWriter.create(path, info, on_error="fail")
    try:
        writer.append_probe(
            ProbeRecord(
                step,
                probe_values(estimate, found.subject.metric),
                layers if blocks else {},
                spectrum if of_h else None,
            )
        )
        for warning in (*_OTHER_MATRIX.get(estimate.curvature, ()), *estimate.warnings):
            writer.append_event(EventRecord(step, "warning", "PROBE", warning))
        writer.close("finished")
    except LogError:
        for file in (path, journal_path(path)):
            file.unlink(missing_ok=True)
        raise


_OTHER_MATRIX = {
    "ggn": ("the columns of H (λ, ‖H‖, κ, trace, layers) hold those of the Gauss-Newton matrix",),
    "preconditioned": ("P^-1/2 H P^-1/2 was measured, not H, whose columns are empty",),
}
_OF_H = ("lambda_max", "lambda_min", "hessian_norm", "kappa", "residual", "trace", "trace_stderr")


def probe_values(estimate: Any, metric: Any) -> dict[str, float]:
    """The columns a training probe fills, and what only a thorough one measures.

    Eigenvalues of P^-1/2 H P^-1/2 have another unit than those of H: their columns stay empty.
    """
    from homotopy_cli.cli.edges import own_threshold
    from homotopy_cli.curvature.components_columns import component_columns
    from homotopy_cli.schedulers.columns import columns

    parts = {} if estimate.components is None else component_columns(estimate.components)
    more = {
        "edge_threshold": own_threshold(estimate, metric),
        "converged": estimate.converged,
        "gradient_equivalents": estimate.cost.gradient_equivalents,
        "probe_seconds": estimate.cost.seconds,
        "trace": estimate.trace and estimate.trace.value,
        "trace_stderr": estimate.trace and estimate.trace.stderr,
    }
    found = columns(estimate) | parts | {k: float(v) for k, v in more.items() if v is not None}
    if estimate.curvature == "preconditioned":
        found = {k: v for k, v in found.items() if k not in _OF_H}
    return found
