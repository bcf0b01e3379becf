"""`homotopy report`: one or more logs -> one page, gates and machine-readable summaries."""

from pathlib import Path
from typing import Annotated

import typer

from homotopy_cli.cli.debug import Debug


def report(
    logs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN.h5...", readable=False, help="Logs, or a folder of them; several compare."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page; default beside the first log.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="OLD.h5", help="Gives baseline.* to --fail-on.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE|-", help="A summary for a CI job page.")
    ] = None,
    json: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Metrics as strict JSON; - is stdout.")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE|-", help="Gates as JUnit XML.")
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EXPR", help="Exit 1 if true: 'final_loss > baseline.final_loss * 1.02'."
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Draw again while the run goes on, or is yet to begin; Ctrl-C ends it."
        ),
    ] = False,
    every: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=1.0, max=86400.0, help="How often --watch looks; 10."),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress; warnings and results stay.")
    ] = False,
    debug: Debug = False,
) -> int:
    """Turn a log into one self-contained page that opens anywhere, and stop a bad run in CI.

    Metrics for --fail-on: final_loss best_loss val_loss val_metric steps spikes spike_score
    max_lambda_max max_kappa max_edge_ratio overhead nonfinite lr_min lr_max warmup_steps, and
    baseline.*; each gate judges every log, and one that fires is enough.
    """
    from homotopy_cli.cli.reporting import run_report

    return run_report(
        logs=logs,
        out=out,
        baseline=baseline,
        markdown=markdown,
        json=json,
        junit=junit,
        fail_on=fail_on or [],
        title=title,
        watch=watch,
        every=every,
        quiet=quiet,
    )
