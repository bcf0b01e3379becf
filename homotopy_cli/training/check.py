"""`--check`: everything a run does once, in memory, and nothing on the disk."""

import math
import time
from dataclasses import dataclass
from typing import Any

from homotopy_cli.errors import NonFiniteError
from homotopy_cli.training.build import build_run
from homotopy_cli.training.evaluate import evaluate
from homotopy_cli.training.forward import AMP_WORDS
from homotopy_cli.training.opening import opening
from homotopy_cli.training.outputs import refuse_unwritable, run_paths
from homotopy_cli.training.ranks import SOLO, Ranks
from homotopy_cli.training.spoilt import spoilt, spoilt_step
from homotopy_cli.training.step import optimizer_step
from homotopy_cli.training.stopping import Stopping


@dataclass(frozen=True)
class CheckReport:
    """What one step of a recipe looked like."""

    n_params: int
    n_layers: int
    loss: float
    loss_name: str
    grad_norm: float
    curvature: dict[str, float]  # per-probe columns; empty when probing is off
    eval_loss: float | None
    step_seconds: float  # without the probe
    probe_seconds: float
    notes: tuple[str, ...]  # the run's opening lines, mixed precision, and warnings of the probe


def check(loaded: Any, out: Any, ranks: Ranks = SOLO) -> CheckReport:
    """Build the recipe, make one step with one probe and one evaluation, and write nothing.

    Raises:
        HomotopyError: The first thing that would have stopped the run.
    """
    refuse_unwritable(run_paths(out))
    run = build_run(loaded, ranks)
    Stopping.of(loaded.recipe, len(run.eval_batches))
    eval_loss = None
    if run.eval_batches:
        eval_loss = evaluate(run.model, run.loss, run.eval_batches[:1], ranks)["eval_loss"]
        if not math.isfinite(eval_loss) and (found := spoilt(run.eval_batches[0])):
            raise NonFiniteError(
                f"held-out loss is {eval_loss}: the first held-out batch holds {found}",
                hint="remove or repair those rows of the data",
            )
    began = time.perf_counter()
    outcome = optimizer_step(run, 0)
    seconds = time.perf_counter() - began
    if outcome.fault and (found := spoilt_step(run, 0)):
        raise NonFiniteError(
            f"step 0: {outcome.fault}: its batch holds {found}",
            hint="remove or repair those rows of the data",
        )
    if outcome.fault:
        raise NonFiniteError(
            f"step 0: {outcome.fault}, before any weight was changed",
            hint="look at the data and the model's initialisation: the learning rate is not it",
        )
    probe_seconds = outcome.values["probe_seconds_step"]
    said = (*opening(run), *((AMP_WORDS,) if loaded.recipe.amp else ()))
    events = run.probe.drain_events()
    return CheckReport(
        n_params=run.n_params,
        n_layers=len(run.layers),
        loss=outcome.values["loss"],
        loss_name=run.loss.name,
        grad_norm=outcome.values["grad_norm"],
        curvature={} if outcome.probe is None else dict(outcome.probe.values),
        eval_loss=eval_loss,
        step_seconds=seconds - probe_seconds,
        probe_seconds=probe_seconds,
        notes=said + tuple(event.message for event in events if event.level != "info"),
    )
