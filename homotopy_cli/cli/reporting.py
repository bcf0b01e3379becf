"""`homotopy report`, from logs to outputs. Imports no torch: a CI job needs none."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from homotopy_cli.errors import INTERRUPTED, HomotopyError

EVERY = 10.0  # seconds between two looks of --watch; our choice
FASTEST_RELOAD = 5.0  # seconds: a slow machine must be able to finish drawing in between


def run_report(
    *,
    logs: Sequence[Path],
    out: Path | None,
    baseline: Path | None,
    markdown: Path | None,
    json: str | None,
    junit: Path | None,
    fail_on: Sequence[str],
    title: str | None,
    watch: bool = False,
    every: float | None = None,
) -> int:
    """Read the logs, evaluate the gates, write every output; 1 when a gate fired.

    With `watch` the page is drawn again every `every` seconds while a run goes on, and the other
    outputs are written when it has ended; 130 when Ctrl-C ended the watch, after all outputs. A
    log that does not exist yet is waited for; where Ctrl-C ends that, nothing is written.
    """
    from homotopy_cli.cli.document import refuse_missing_folders, write_json, write_text
    from homotopy_cli.cli.watching import absent, replace_text
    from homotopy_cli.report.gates import evaluate_all
    from homotopy_cli.report.junit import junit_xml
    from homotopy_cli.report.markdown import markdown_summary
    from homotopy_cli.report.metrics import gate_names, metrics_document
    from homotopy_cli.report.page import render
    from homotopy_cli.runlog.reader import read_log

    if every is not None and not watch:
        hint = f"homotopy report {logs[0]} --watch --every {every:g}"
        said = f"--every {every:g}: says how often --watch looks; alone it does nothing"
        raise HomotopyError(said, hint=hint)
    piped = [
        name
        for name, to in (("json", json), ("markdown", markdown), ("junit", junit))
        if str(to) == "-"
    ]
    if len(piped) > 1:
        raise HomotopyError(
            f"--{piped[0]} - and --{piped[1]} -: stdout takes one of them",
            hint=f"--{piped[1]} FILE",
        )
    target = out or logs[0].with_suffix(".html")
    later = watch and out is None and absent(logs[:1])  # the run makes the page's folder too
    named = [None if later else target, markdown, junit]
    refuse_missing_folders([*named, Path(json) if json not in (None, "-") else None])
    if target.resolve() in {path.resolve() for path in logs}:
        raise HomotopyError(f"--out {target}: is the log itself", hint="give another --out")
    base = read_log(baseline) if baseline is not None else None

    def draw(runs: Sequence[Any], refresh: float | None = None) -> list[Any]:
        gates = evaluate_all(fail_on, gate_names(runs[0], base))
        page = render(runs, title=title, baseline=base, gates=gates, refresh=refresh)
        if refresh is None:
            write_text(str(target), page)
        else:
            replace_text(target, page)
        return gates

    interrupted = watch and _watch(logs, target, draw, every or EVERY)
    if interrupted and (missing := absent(logs)):
        print(f"no page: {missing[0]} was never written", file=sys.stderr)
        return INTERRUPTED
    runs = [read_log(path) for path in logs]
    gates = draw(runs)
    if markdown is not None:
        write_text(str(markdown), markdown_summary(runs, baseline=base, gates=gates))
    if junit is not None:
        write_text(str(junit), junit_xml(gates, suite=logs[0].name))
    if json is not None:
        write_json(metrics_document(runs, baseline=base, gates=gates), json)
    if "-" not in (json, str(markdown), str(junit)):
        print(f"page: {target}")
    fired = [gate for gate in gates if gate.failed]
    for gate in fired:
        print(f"gate fired: {gate.message}", file=sys.stderr)
    if interrupted:
        return INTERRUPTED
    return 1 if fired else 0


def _watch(logs: Sequence[Path], target: Path, draw: Any, every: float) -> bool:
    from homotopy_cli.cli.watching import watch

    print(f"watching: {target} follows the run, every {every:g} s; Ctrl-C ends it", file=sys.stderr)
    refresh = max(every, FASTEST_RELOAD)
    return watch(logs, lambda runs: draw(runs, refresh), every=every)
