"""`homotopy probe`, from options to outputs: load, predict the cost, measure, say, write, gate."""

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from homotopy_cli.cli.interrupt import Interrupt
from homotopy_cli.cli.metric import SavedMetric, saved_metric
from homotopy_cli.cli.probe import ProbeOptions
from homotopy_cli.errors import INTERRUPTED, HomotopyError

QUICK = {
    "top_k": 1,
    "ends": "max",
    "settle_norm": True,
    "mixed": True,
    "blocks": False,
    "trace": False,
    "frobenius": False,
    "density": False,
}


def run_probe(options: ProbeOptions) -> int:
    """Do what `homotopy probe` was asked; returns the exit code."""
    from homotopy_cli.cli import outputs

    outputs.check_targets(options)
    subject = prepare(options)
    other = None
    if options.compare is not None:
        other = prepare(replace(options, checkpoint=options.compare, validate=False))
    if not options.quiet:
        sys.stderr.write(forecast_line([p.forecast for p in (subject, other) if p is not None]))
    if options.dry_run:
        outputs.write_forecast(options, subject, subject.forecast)
        return 0
    with Interrupt() as interrupt:
        found = measure(subject, options, interrupt)
        against = None
        if other is not None:
            against = measure(other, replace(options, validate=False), interrupt)
    code = outputs.deliver(options, found, against)
    return INTERRUPTED if interrupt.asked() else code


@dataclass(frozen=True)
class Subject:
    """A loaded checkpoint with all that is decided before anything is measured."""

    loaded: Any  # LoadedProblem
    metric: SavedMetric | None
    partition: Any | None
    config: Any  # EstimatorConfig
    forecast: Any
    notes: tuple[str, ...]

    @property
    def problem(self) -> Any:
        return self.loaded.problem

    @property
    def checkpoint(self) -> Any:
        return self.loaded.checkpoint


@dataclass(frozen=True)
class Findings:
    """A subject with its measurements: what the outputs are written from."""

    subject: Subject
    estimate: Any
    noise: Any | None = None
    lr_ranges: tuple[Any, ...] = ()
    validation: tuple[Any, ...] = ()
    interrupted: bool = False  # by Ctrl-C: what was measured by then


def prepare(options: ProbeOptions) -> Subject:
    """Load a checkpoint, refuse what cannot be measured, predict the cost."""
    from homotopy_cli.curvature.exact import require_small
    from homotopy_cli.curvature.forecast import forecast
    from homotopy_cli.curvature.noise import require_batches

    config = make_config(options)
    loaded = load(options)
    problem = loaded.problem
    partition = make_partition(problem, options.layers)
    metric, why_not = saved_metric(loaded)
    if options.curvature == "preconditioned" and (metric is None or metric.diagonal is None):
        raise HomotopyError(
            f"{options.checkpoint}: no preconditioner P: "
            + (why_not or "it holds no state of an adaptive optimizer"),
            hint="probe a checkpoint that holds its optimizer, or use --curvature hessian",
        )
    if options.validate:
        require_small(problem, options.validate_limit)
    if options.noise:
        require_batches(problem)
    notes = (*loaded.notes, *([why_not] if why_not else []))
    return Subject(loaded, metric, partition, config, forecast(problem, partition, config), notes)


def measure(subject: Subject, options: ProbeOptions, interrupt: Interrupt) -> Findings:
    """Measure all that the options ask for; after Ctrl-C, what is there by then."""
    from homotopy_cli.cli.probe_progress import ProbeProgress
    from homotopy_cli.curvature.components import measure_components
    from homotopy_cli.curvature.estimator import CurvatureEstimator
    from homotopy_cli.curvature.noise import gradient_noise
    from homotopy_cli.curvature.validate import validate as against_full_hessian

    problem, metric = subject.problem, subject.metric
    preconditioner = None if metric is None else metric.diagonal
    with ProbeProgress(quiet=options.quiet) as progress:
        estimate = CurvatureEstimator(config=subject.config).estimate(
            problem,
            subject.partition,
            preconditioner=preconditioner,
            progress=progress,
            stop=interrupt.asked,
        )
        if not interrupt.asked():
            estimate = replace(estimate, components=measure_components(problem))
        found = Findings(subject, estimate)
        if options.noise and not interrupt.asked():
            found = replace(found, noise=gradient_noise(problem, method=options.hvp))
        if options.lr_range and not interrupt.asked():
            found = replace(found, lr_ranges=lr_ranges(problem, preconditioner))
        if options.validate and not interrupt.asked():
            records = against_full_hessian(
                problem,
                found.estimate,
                subject.partition,
                preconditioner=preconditioner,
                limit=options.validate_limit,
            )
            found = replace(found, validation=tuple(records))
    return replace(found, interrupted=interrupt.asked())


def lr_ranges(problem: Any, preconditioner: Any | None) -> tuple[Any, ...]:
    """Critical rates of a step along g, and along P⁻¹g where an optimizer gives a P."""
    from homotopy_cli.curvature.critical import critical_lr
    from homotopy_cli.curvature.hvp import GradientGraph

    here = GradientGraph(problem, method="central_difference")  # one gradient, no graph kept
    metrics = [None] if preconditioner is None else [None, preconditioner]
    return tuple(critical_lr(problem, here.grad, here.loss, diagonal=p) for p in metrics)


def load(options: ProbeOptions) -> Any:
    """Checkpoint, model, loss and batches as one LoadedProblem."""
    from homotopy_cli.problems.load import load_problem

    return load_problem(
        options.checkpoint,
        model=options.model,
        model_args=options.model_arg,
        loss=options.loss,
        batches=options.batch or None,
        recipe=options.recipe,
        text=options.text,
        entry=options.entry,
        mode=options.mode,
        dtype=options.dtype,
        device=options.device,
        seed=options.seed,
        microbatch=options.microbatch,
        trust_pickle=options.trust_pickle,
        trust_code=options.trust_code,
    )


def make_partition(problem: Any, layers: str) -> Any | None:
    """The partition `--layers` names; None for no per-layer table."""
    from homotopy_cli.problems.partition import Partition

    if layers == "none":
        return None
    if layers == "module":
        return Partition.by_module(problem)
    if layers == "parameter":
        return Partition.by_parameter(problem)
    return Partition.by_pattern(problem, layers)


def make_config(options: ProbeOptions) -> Any:
    """EstimatorConfig.thorough with what the options change."""
    from homotopy_cli.curvature.config import EstimatorConfig

    changes: dict[str, Any] = {
        "top_k": options.top_k,
        "trace": options.trace,
        "frobenius": options.trace,
        "density": options.density,
        "hvp": options.hvp,
        "curvature": options.curvature,
        "seed": options.seed,
        "ends": options.ends,
        "trace_method": options.trace_method,
        "checks": options.checks,
    }
    if options.quick:
        changes |= QUICK
    if options.lr is not None and not math.isfinite(options.lr):
        raise HomotopyError(f"--lr {options.lr}: not a finite rate", hint="write --lr 3e-3")
    if options.rtol is not None:
        if not 0.0 < options.rtol < 1.0:
            raise HomotopyError(
                f"--rtol {options.rtol:g}: does not lie between 0 and 1", hint="write --rtol 1e-3"
            )
        changes["rtol"] = options.rtol
    if options.max_hvp is not None:
        changes["max_hvp"] = options.max_hvp
    if options.budget is not None:
        changes["max_seconds"] = seconds(options.budget)
    if options.max_memory is not None:
        changes["max_memory"] = size(options.max_memory)
    return replace(EstimatorConfig.thorough(), **changes)


def seconds(text: str) -> float:
    """`60s`, `5m`, `1.5h` or plain seconds."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    scale = units.get(text[-1:].lower())
    try:
        value = float(text[:-1] if scale else text) * (scale or 1.0)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise HomotopyError(f"--budget {text}: not a time", hint="write --budget 60s or 5m")
    return value


def size(text: str) -> int:
    """`2GiB`, `500MB` or plain bytes."""
    found = re.fullmatch(r"([0-9.]+)\s*([kmg]i?b?|b?)", text.strip().lower())
    try:
        value = float(found[1]) if found else 0.0
    except ValueError:
        value = 0.0
    if not found or not value > 0.0:
        raise HomotopyError(f"--max-memory {text}: not a size", hint="write --max-memory 2GiB")
    power = " kmg".index(found[2][:1] if found[2] not in ("", "b") else " ")
    return int(value * (1024 if "i" in found[2] else 1000) ** power)


def forecast_line(forecasts: Sequence[Any]) -> str:
    """What is about to be spent, in one line."""
    products, seconds = sum(f.n_hvp for f in forecasts), sum(f.seconds for f in forecasts)
    memory = max(f.memory_bytes for f in forecasts)
    return (
        f"about {products:.0f} Hessian-vector products, "
        f"{seconds:.0f} s, {memory / 2**20:.0f} MiB of vectors\n"
    )
