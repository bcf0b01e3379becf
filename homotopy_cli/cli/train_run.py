"""`homotopy train`, from a loaded recipe to the sentences on stdout."""

import sys
from pathlib import Path
from typing import Any

from homotopy_cli.cli.progress import duration, make_progress, number
from homotopy_cli.errors import CheckpointError, HomotopyError, TrainingDiverged, typed

CONTRADICTION = "--resume and --overwrite contradict each other"
CONTRADICTION_HINT = "--resume continues the run that is there, --overwrite replaces it"


def run_train(
    loaded: Any,
    *,
    recipe: Path | None,
    out: Path | None,
    resume: bool,
    overwrite: bool,
    page: bool,
    quiet: bool,
    ranks: Any,
) -> int:
    """Train, write the page, say what happened; the exit code as in errors.py.

    Raises:
        TrainingDiverged, CheckpointError: After the summary, so that the error is the last thing
            said.
    """
    from homotopy_cli.training.loop import default_out, train
    from homotopy_cli.training.outputs import run_paths

    if resume and overwrite:
        raise HomotopyError(CONTRADICTION, hint=CONTRADICTION_HINT)
    target = out if out is not None else default_out(loaded)
    ranks.on_main(lambda: refuse_inputs(loaded, target))
    if resume and ranks.is_main and not run_paths(target).existing():
        print(f"note: {target}: no run to resume, so it starts at step 0", file=sys.stderr)
    command = f"{ranks.program} train{_as_given(loaded, recipe)}"
    result = train(
        loaded,
        target,
        resume=resume,
        overwrite=overwrite,
        observer=make_progress(quiet=quiet),
        argv=("homotopy", *sys.argv[1:]),
        command=command,
        ranks=ranks,
    )

    def tell() -> None:
        written = page and not result.signal and _write_page(result.paths)
        needed = consent(loaded.recipe)
        for line in sentences(result, command=command, page=bool(written), consent=needed):
            print(line)
        refuse_incomplete(result, command)
        if result.status == "diverged":
            from homotopy_cli.training.summary import advice

            raise TrainingDiverged(result.fault, step=result.step, hint=advice(result))

    ranks.on_main(tell)
    return result.exit_code


def refuse_incomplete(result: Any, command: str) -> None:
    """Say what a full disk has cost: a warning beside a graver end, else an error.

    Raises:
        CheckpointError: The last weights are in no checkpoint, or steps in no file of the log.
    """
    diverged = result.status == "diverged"
    lost = result.unlogged if result.lost_rows and not diverged else ""
    if result.unlogged and not lost:
        print(f"warning: {result.unlogged}", file=sys.stderr)
    if not (result.unsaved or lost):
        return
    # Steps after the checkpoint are taken and logged again; those before it, by a new run alone.
    left = result.unsaved or result.status == "interrupted"
    again = f"{command} --{'resume' if left else 'overwrite'}{_out_option(result.paths)}"
    missing = "; ".join(filter(None, (result.unsaved, lost)))
    raise CheckpointError(missing, hint=f"free some space, then: {again}")


def refuse_inputs(loaded: Any, target: Path) -> None:
    """Raise HomotopyError where a file of the run would be one that its recipe reads."""
    from homotopy_cli.cli.refusals import recipe_files, refuse_input
    from homotopy_cli.training.outputs import run_paths

    paths, read = run_paths(target), list(recipe_files(loaded))
    for file in (paths.log, paths.journal, paths.checkpoint, paths.best, paths.page):
        refuse_input("--out", file, read)


def _as_given(loaded: Any, recipe: Path | None) -> str:
    """Recipe, profile and settings as they were typed, for a command that finds the run again."""
    words = [typed(recipe)] if recipe is not None else []
    words += ["--profile", typed(loaded.profile)] if loaded.profile is not None else []
    for setting in loaded.overrides:
        words += ["--set", typed(setting)]
    return "".join(f" {word}" for word in words)


def run_grid(
    load: Any,
    *,
    overrides: tuple[str, ...],
    profile: str | None,
    recipe: Path | None,
    out: Path | None,
    sweeps: list[str],
    seeds: str | None,
    jobs: int,
    resume: bool,
    overwrite: bool,
    check: bool,
    quiet: bool,
) -> int:
    """`--sweep` and `--seeds`: the grid, its runs, its page. It always resumes what is there."""
    from homotopy_cli.cli.sweep import check_sweep, plan_sweep, run_sweep
    from homotopy_cli.cli.sweep_folder import earlier_runs, listed, refuse_nothing_to_resume
    from homotopy_cli.recipe.grid import cells, parse_seeds

    plain = load(overrides, profile)
    grid = cells(sweeps, parse_seeds(seeds, plain.recipe.seed))

    def of_cell(cell: Any) -> Any:
        names = ",".join(([profile] if profile else []) + list(cell.profiles))
        return load((*overrides, *cell.overrides), names or None)

    folder = out if out is not None else Path("runs") / f"{plain.name}-sweep"
    if folder.suffix == ".h5" or folder.is_file():
        raise HomotopyError(
            f"--out {folder}: a sweep writes many logs", hint="give a folder: --out runs/sweep"
        )
    if resume and overwrite:
        raise HomotopyError(CONTRADICTION, hint=CONTRADICTION_HINT)
    plans = plan_sweep(grid, of_cell, folder, overwrite=overwrite)
    if check:
        return check_sweep(plans, recipe)
    if resume:
        refuse_nothing_to_resume(plans, folder)
    earlier, others = earlier_runs(plans, folder, of_cell)
    if others:
        said = f"{len(others)} other log{'s' * (len(others) > 1)} in {folder} left out"
        hint = f"homotopy report {typed(folder)} compares all"
        print(f"note: {said}, of another grid or recipe: {listed(others)}; {hint}", file=sys.stderr)
    return run_sweep(plans, folder, recipe, jobs=jobs, quiet=quiet, earlier=earlier)


def consent(recipe: Any) -> str:
    """The option with which a probe may run the code that this recipe names; "" for none.

    The recipe inside the checkpoint has every --set and --profile in it, the file has not.
    """
    from homotopy_cli.recipe.targets import is_user_code

    parts = (recipe.model, recipe.loss, recipe.data)
    return " --trust-code" if any(map(is_user_code, parts)) else ""


def sentences(result: Any, *, command: str, page: bool, consent: str = "") -> list[str]:
    """The summary: what was done, what curvature did, where everything is, what to type next."""
    from homotopy_cli.training.summary import advice, findings

    tally = result.tally
    words = {
        "finished": "finished early" if result.early else "finished",
        "diverged": "stopped",
        "interrupted": f"ended by {result.signal}" if result.signal else "time limit",
    }
    lines = [
        f"{words[result.status]}: {result.step} of {result.total} steps, "
        f"{result.n_params:,} parameters, {duration(result.seconds)} in this process"
    ]
    if not result.seconds:
        lines = [f"nothing to do: {warning}" for warning in result.warnings]
    if result.early or result.late:
        lines.append(f"why: {result.early or result.late}")
    if tally.first_loss is not None:
        lines.append(
            f"loss: {tally.first_loss:.4g} -> {tally.last_loss:.4g} on training batches "
            f"(best {tally.best_loss:.4g})"
        )
    if result.eval_loss is not None:
        lines.append("held out: " + _held_out(result))
    if tally.lr_max > 0:
        same = tally.lr_min == tally.lr_max
        rates = f"{tally.lr_max:.3g}" if same else f"{tally.lr_min:.3g} to {tally.lr_max:.3g}"
        lines.append(f"learning rate: {rates} ({result.scheduler or 'as before'})")
    if tally.n_probes:
        share = (
            f", {result.probe_share:.1%} of the steps' time; {result.overhead:.1%} of this "
            "process's with spectra and components"
        )
        share *= result.seconds > 0
        lines.append(
            f"curvature: {tally.n_probes} probe{'s' * (tally.n_probes != 1)}{share}; "
            "largest edge ratio "
            f"{number(tally.peak_edge)} at step {tally.peak_edge_step} (1 = edge of stability)"
        )
    lines += [f"note: {sentence}" for sentence in findings(result)]
    if result.status == "finished" and advice(result):
        lines.append(f"hint: {advice(result)}")
    paths = result.paths
    lines += ["", f"log         {paths.log}"]
    if paths.checkpoint.exists():
        lines.append(f"checkpoint  {paths.checkpoint}")
    if result.best_eval is not None and paths.best.exists():
        step, loss = result.best_eval
        lines.append(f"best        {paths.best} (held-out loss {loss:.4g} after {step} steps)")
    if page:
        lines.append(f"report      {paths.page}")
    if result.status == "interrupted" or result.unsaved:
        lines.append(f"next        {command} --resume" + _out_option(paths))
    elif paths.checkpoint.exists():
        lines.append(f"next        homotopy probe {typed(paths.checkpoint)}{consent}")
    lines.append(f"            homotopy report {typed(paths.log)}")
    return lines


def _held_out(result: Any) -> str:
    text = f"loss {result.eval_loss:.4g}"
    if result.first_eval_loss is not None and result.first_eval_loss != result.eval_loss:
        text = f"loss {result.first_eval_loss:.4g} -> {result.eval_loss:.4g}"
    if result.eval_metric is not None and result.eval_metric_name:
        text += f", {result.eval_metric_name} {result.eval_metric:.4g}"
    known = ", ".join(f"{name.replace('_', ' ')} {x:.4g}" for name, x in result.baseline.items())
    return f"{text} ({known})" if known else text


def _out_option(paths: Any) -> str:
    """`--out` as it was, for a command that shall find the same run again."""
    given = any(word.partition("=")[0] == "--out" for word in sys.argv)
    return f" --out {typed(paths.log)}" if given else ""


def _write_page(paths: Any) -> bool:
    """run.html from the log alone; a page that fails never spoils a run that worked."""
    from homotopy_cli.cli.writing import write_text
    from homotopy_cli.report.page import render
    from homotopy_cli.runlog.reader import read_log

    try:
        write_text(str(paths.page), render([read_log(paths.log)]))
    except (HomotopyError, OSError) as error:
        print(f"warning: {paths.page} was not written: {error}", file=sys.stderr)
        return False
    return True


def run_check(loaded: Any, *, out: Path | None, ranks: Any) -> int:
    """`--check`: 0 and a few lines, or the first fault."""
    from homotopy_cli.training.check import check
    from homotopy_cli.training.loop import default_out

    report = check(loaded, out if out is not None else default_out(loaded), ranks)
    if not ranks.is_main:
        return 0
    seen = report.curvature
    print(f"model: {report.n_params:,} parameters in {report.n_layers} layers")
    print(f"step 0: loss {report.loss:.4g} ({report.loss_name}), ‖g‖ {report.grad_norm:.4g}")
    if report.eval_loss is not None:
        print(f"held out: loss {report.eval_loss:.4g} on one batch")
    if seen:
        print(
            f"curvature: λmax {number(seen.get('lambda_max'))}, κ {number(seen.get('kappa'))}, "
            f"edge ratio {number(seen.get('edge_ratio'))}"
        )
    for note in report.notes:
        print(f"note: {note}")
    total = loaded.recipe.steps * report.step_seconds
    print(
        f"time: {report.step_seconds:.3g} s for this step, {report.probe_seconds:.3g} s for its "
        f"probe; {loaded.recipe.steps} steps take about {duration(total)}"
    )
    print("check: no fault found; nothing was written")
    return 0
