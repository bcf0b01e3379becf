"""train(): a recipe's steps from the first to the last, whatever happens in between."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from homotopy_cli.errors import first_line
from homotopy_cli.records import EventRecord, RunInfo
from homotopy_cli.runlog.writer import RunWriter
from homotopy_cli.training.attempt import Attempt
from homotopy_cli.training.build import Run, build_run
from homotopy_cli.training.distributed import is_lost_rank, lost_rank
from homotopy_cli.training.environment import environment, without_home
from homotopy_cli.training.evaluate import METRIC_NAMES
from homotopy_cli.training.observer import RESUMING, Observer, Silent
from homotopy_cli.training.opening import OPENING, opening
from homotopy_cli.training.outputs import (
    RunPaths,
    make_folder,
    refuse_existing,
    refuse_unwritable,
    run_paths,
)
from homotopy_cli.training.preflight import preflight
from homotopy_cli.training.ranks import SOLO, NoLog, Ranks, SaidElsewhere
from homotopy_cli.training.resume import StartPoint, start_together
from homotopy_cli.training.saving import remove_checkpoint
from homotopy_cli.training.signals import StopRequest
from homotopy_cli.training.stopping import Stopping
from homotopy_cli.training.summary import Tally, TrainResult


def train(
    loaded: Any,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    observer: Observer | None = None,
    argv: Sequence[str] = (),
    command: str = "homotopy train",
    ranks: Ranks = SOLO,
) -> TrainResult:
    """Train a recipe to its last step, a divergence, or a signal.

    Args:
        loaded: What `load_recipe` returned.
        out: The log; default the recipe's `out`, else runs/NAME/run.h5.
        resume: Continue the run that is there, bit for bit.
        overwrite: Replace the run that is there, once everything that can be checked is.
        observer: Told about each step.
        argv: The command line, for the log; secrets are masked.
        command: How the run was started, for hints.
        ranks: The processes that train together, see distributed.process_group; all of them
            call this, rank 0 alone writes and is observed.

    Returns:
        TrainResult; a divergence and a signal are results (exit codes 3, 130, 143), with log
        and checkpoint closed and intact.

    Raises:
        HomotopyError: Unusable recipe, data or output; nothing was written or changed.
    """
    paths = run_paths(out if out is not None else default_out(loaded))

    def refuse() -> None:
        if not resume and not overwrite:
            refuse_existing(paths, command=command)
        refuse_unwritable(paths)

    ranks.on_main(refuse)
    run = build_run(loaded, ranks)
    start = start_together(paths, loaded.recipe.resolved(), ranks) if resume else StartPoint()
    stopping = Stopping.of(loaded.recipe, len(run.eval_batches))
    if start.checkpoint is not None:
        stopping.load_state_dict(start.checkpoint["loop"].get("stopping", stopping.state_dict()))
    if start.step >= loaded.recipe.steps or stopping.early:
        return _nothing_to_do(run, paths, start, stopping)
    ranks.together(lambda: preflight(run, start.step))
    watcher = observer if observer is not None and ranks.is_main else Silent()
    for words in () if start.continues_log else opening(run):
        watcher.event(EventRecord(start.step, "info", OPENING, words))
    info = _run_info(loaded, run, argv)

    def open_log() -> Any:
        if not ranks.is_main:
            return NoLog()
        make_folder(paths)
        options = {"on_event": watcher.event}
        if start.continues_log:
            return RunWriter.resume(paths.log, step=start.step, info=info, **options)
        return RunWriter.create(paths.log, info, overwrite=overwrite, **options)

    writer = ranks.together(open_log)
    if start.continues_log:
        words = f"{paths.log}: {start.words(loaded.recipe.steps)}"
        watcher.event(EventRecord(start.step, "info", RESUMING, words))
    # When another rank fails, torchrun tells this one to end: not before its log is closed.
    with StopRequest() if ranks.size > 1 else nullcontext():
        attempt = None
        try:
            if not start.continues_log and ranks.is_main:  # of the run that --overwrite replaces
                remove_checkpoint(paths.best)
                remove_checkpoint(paths.checkpoint)
                paths.page.unlink(missing_ok=True)
            attempt = Attempt(run, paths, writer, watcher, start, loaded, stopping)
            return attempt.go()
        except BaseException as error:
            # A bug, a second Ctrl-C, a full memory, a lost rank: the rows so far are worth keeping.
            if ranks.size > 1:
                done = start.step if attempt is None else attempt.done
                writer.append_event(EventRecord(done, "error", "RANK_FAILED", _end(error)))
            closed = writer.close("interrupted")
            if closed and ranks.size == 1 and not (start.continues_log or writer.has_steps):
                for path in (writer.path, paths.checkpoint):  # a run that made no step is none
                    path.unlink(missing_ok=True)
            raise


def default_out(loaded: Any) -> Path:
    """The recipe's `out`, else runs/NAME/run.h5 in the current folder."""
    return Path(loaded.recipe.out or Path("runs") / loaded.name / "run.h5")


def _run_info(loaded: Any, run: Run, argv: Sequence[str]) -> RunInfo:
    created = datetime.now(UTC)
    return RunInfo(
        run_id=f"{loaded.name}-{created:%Y%m%d-%H%M%S}-{os.urandom(3).hex()}",
        layers=tuple(block.name for block in run.layers),
        layer_numel=tuple(sum(run.named[p].numel() for p in b.params) for b in run.layers),
        layer_kind=tuple(block.kind for block in run.layers),
        recipe_source=loaded.source,
        recipe_resolved=loaded.recipe.resolved(),
        environment=environment(run.device) | run.ranks.facts(),
        argv=without_home(argv),
        seed=loaded.recipe.seed,
        n_params=run.n_params,
        created_utc=created.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _end(error: BaseException) -> str:
    """Why a run of several ranks ended, for its log."""
    if is_lost_rank(error):
        return lost_rank(error).message
    if isinstance(error, SaidElsewhere):
        return "another rank reports an error"
    return first_line(error, named=True)


def _nothing_to_do(run: Run, paths: RunPaths, start: StartPoint, stopping: Stopping) -> TrainResult:
    """The run is already as long as the recipe asks: report it, touch nothing."""
    assert start.checkpoint is not None  # only a checkpoint has steps
    kept = start.checkpoint["loop"]
    tally = Tally()
    tally.load_state_dict(kept["tally"])
    return TrainResult(
        status="finished",
        step=start.step,
        total=start.step,
        paths=paths,
        tally=tally,
        final_loss=tally.last_loss,
        n_params=run.n_params,
        seconds=0.0,
        probe_seconds=0.0,
        eval_loss=kept["evaluations"].get("eval_loss"),
        eval_metric=kept["evaluations"].get("eval_metric"),
        eval_metric_name=METRIC_NAMES.get(run.loss.name, ""),
        first_eval_loss=kept["evaluations"].get("first"),
        baseline=dict(run.baseline),
        early=stopping.early,
        best_eval=stopping.best if run.recipe.keep_best else None,
        warnings=(
            f"the run already has {start.step} steps; "
            f"--set {'early_stop.patience' if stopping.early else 'steps'}=N for more",
        ),
    )
