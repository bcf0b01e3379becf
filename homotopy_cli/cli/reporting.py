"""`homotopy report`, from logs to outputs. Imports no torch: a CI job needs none."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from homotopy_cli.errors import INTERRUPTED, HomotopyError

EVERY = 10.0  # seconds between two looks of --watch; our choice
MAX_TOLD = 12  # runs whose headline is printed; the page has all
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
    quiet: bool = False,
) -> int:
    """Read the logs, evaluate the gates, write every output; 1 when a gate fired.

    With `watch` the page is drawn again every `every` seconds while a run goes on, and the other
    outputs are written when it has ended; 130 when Ctrl-C ended the watch, after all outputs. A
    log that does not exist yet is waited for; where Ctrl-C ends that, nothing is written.
    """
    from homotopy_cli.cli.app import one_line
    from homotopy_cli.cli.document import write_json
    from homotopy_cli.cli.log_folders import expanded
    from homotopy_cli.cli.watching import absent
    from homotopy_cli.cli.writing import write_all, write_text
    from homotopy_cli.report.arms import in_order
    from homotopy_cli.report.compare import distinct_names
    from homotopy_cli.report.judging import judge
    from homotopy_cli.report.junit import junit_xml
    from homotopy_cli.report.markdown import markdown_summary
    from homotopy_cli.report.metrics import metrics_document
    from homotopy_cli.report.page import render
    from homotopy_cli.runlog.reader import read_log

    if every is not None and not watch:
        hint = f"homotopy report {logs[0]} --watch --every {every:g}"
        said = f"--every {every:g}: says how often --watch looks; alone it does nothing"
        raise HomotopyError(said, hint=hint)
    logs, beside = expanded(logs)
    if not logs[0].name:
        read_log(logs[0])  # the current folder or the root: says what a log is
    target = out or beside or logs[0].with_suffix(".html")
    later = watch and out is None and absent(logs[:1])  # the run makes the page's folder too
    _check(logs, baseline, target, bool(later), json=json, markdown=markdown, junit=junit)
    base = read_log(baseline) if baseline is not None else None

    def judged(runs: Sequence[Any]) -> tuple[Any, ...]:
        shown = [*runs, base] if base is not None else runs  # named as on the page
        return judge(fail_on, runs, distinct_names(shown, base), baseline=base)

    def draw(runs: Sequence[Any], gates: Sequence[Any], refresh: float | None = None) -> None:
        page = render(runs, title=title, baseline=base, gates=gates, refresh=refresh)
        write_text(target, page)

    def draw_live(runs: Sequence[Any], refresh: float) -> None:
        runs = in_order(runs)
        draw(runs, judged(runs), refresh)

    interrupted = watch and _watch(logs, target, draw_live, every or EVERY, quiet)
    if interrupted and (missing := absent(logs)):
        print(f"no page: {missing[0]} was never written", file=sys.stderr)
        return INTERRUPTED
    runs = in_order([read_log(path) for path in logs])
    gates = judged(runs)
    writes: list[Callable[[], None]] = [lambda: draw(runs, gates)]
    if markdown is not None:
        summary = markdown_summary(runs, baseline=base, gates=gates)
        writes.append(lambda: write_text(markdown, summary))
    if junit is not None:
        more = f" and {len(logs) - 1} more" if len(logs) > 1 else ""
        cases = junit_xml(gates, suite=f"{logs[0].name}{more}")
        writes.append(lambda: write_text(junit, cases))
    if json is not None:
        document = metrics_document(runs, baseline=base, gates=gates)
        writes.append(lambda: write_json(document, json))
    unwritten = write_all(writes)
    if unwritten is None and "-" not in (json, str(out), str(markdown), str(junit)):
        _tell(runs)
        print(f"page: {target}")
        if gates and not any(gate.failed for gate in gates):
            print(f"gates: {_passed(len(fail_on), len(runs))}")
    fired = [gate for gate in gates if gate.failed]
    for gate in fired:
        print(one_line(gate.alarm) if gate.path else gate.alarm, file=sys.stderr)
    if unwritten is not None:
        raise unwritten
    if interrupted:
        return INTERRUPTED
    return 1 if fired else 0


def _passed(gates: int, runs: int) -> str:
    return f"{gates} passed" + (f" on each of {runs} logs" if runs > 1 else "")


def _tell(runs: Sequence[Any]) -> None:
    """The page's headline; of one run also what was found wrong, and what to do."""
    from homotopy_cli.cli.app import one_line
    from homotopy_cli.report.verdict import verdict

    for log in runs[:MAX_TOLD]:
        one = verdict(log)
        print(one_line(f"{log.path}: {one.headline}"))
        if len(runs) == 1:
            told = [f for f in one.findings if f.tone in ("watch", "bad") or f.label == "Next"]
            for finding in told:
                print(f"  {finding.label.lower()}: {one_line(finding.text)}")
    if len(runs) > MAX_TOLD:
        print(f"  and {len(runs) - MAX_TOLD} more, on the page")


def _check(
    logs: Sequence[Path],
    baseline: Path | None,
    page: Path,
    later: bool,
    *,
    json: str | None,
    markdown: Path | None,
    junit: Path | None,
) -> None:
    """Refuse outputs that cannot be written, or that are a log, before any work is done."""
    from homotopy_cli.cli.refusals import Output, check_outputs
    from homotopy_cli.runlog.journal import journal_path

    named = [("the log itself", path) for path in logs]
    named += [("the log of --baseline", baseline)] if baseline is not None else []
    journals = [(f"the journal of {path}", journal_path(path)) for _, path in named]
    outputs = [
        Output("--out", page, "HTML", later=later),
        Output("--json", json, "JSON"),
        Output("--markdown", markdown, "Markdown"),
        Output("--junit", junit, "XML"),
    ]
    check_outputs(outputs, [*named, *journals])


def _watch(logs: Sequence[Path], target: Path, draw: Any, every: float, quiet: bool) -> bool:
    from homotopy_cli.cli.watching import watch

    if not quiet:
        said = f"watching: {target} follows the run, every {every:g} s; Ctrl-C ends it"
        print(said, file=sys.stderr)
    refresh = max(every, FASTEST_RELOAD)
    return watch(logs, lambda runs: draw(runs, refresh), every=every, quiet=quiet)
