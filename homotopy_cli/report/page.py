"""render: logs -> one self-contained HTML page, as a string. Same logs, same bytes."""

from collections.abc import Sequence

import numpy as np

from homotopy_cli._version import __version__
from homotopy_cli.errors import HomotopyError
from homotopy_cli.report import payload, words
from homotopy_cli.report.compare import compare_body
from homotopy_cli.report.escaping import safe
from homotopy_cli.report.facts import is_probe, run_name
from homotopy_cli.report.gates import GateResult
from homotopy_cli.report.single import Body, run_body
from homotopy_cli.report.theme import FONT, css_variables
from homotopy_cli.runlog.reader import RunLog

_MARK = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.7" '
    'stroke-linecap="round" aria-hidden="true"><path d="M3 17C8 17 8 5 12 5s4 12 9 12"/>'
    '<path d="M3 17c6 0 6-6 9-6s3 6 9 6" opacity=".55"/><path d="M3 17h18" opacity=".3"/></svg>'
)

_HALF = (
    '<svg viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6.6" fill="none" '
    'stroke="currentColor" stroke-width="1.5"/><path d="M8 1.4a6.6 6.6 0 0 1 0 13.2z" '
    'fill="currentColor"/></svg>'
)


def render(
    logs: Sequence[RunLog],
    *,
    title: str | None = None,
    baseline: RunLog | None = None,
    gates: Sequence[GateResult] = (),
    refresh: float | None = None,
) -> str:
    """Build the page: one run in full, or several overlaid.

    Args:
        logs: At least one. One is shown in full; several are compared.
        title: Of the page; default: the run's name.
        baseline: An older run, drawn grey and compared in the number cards.
        gates: What `--fail-on` found.
        refresh: Seconds after which the page reloads itself from its own file, for a run that
            goes on; None: never.

    Returns:
        A complete HTML document of about 2 MB (plotly.js) plus the thinned data. It makes no
        request, runs under a strict content security policy, and shows verdict, numbers, tables
        and static curves where scripts are blocked.

    Raises:
        HomotopyError: No log was given.
    """
    with np.errstate(all="ignore"):  # a log may hold 1e308; what overflows becomes a gap
        return _render(logs, title, baseline, gates, refresh)


def _render(
    logs: Sequence[RunLog],
    title: str | None,
    baseline: RunLog | None,
    gates: Sequence[GateResult],
    refresh: float | None,
) -> str:
    if not logs:
        raise HomotopyError("no log to report on", hint="homotopy report RUN.h5")
    if len(logs) == 1:
        body = run_body(logs[0], baseline=baseline, gates=gates)
        name = run_name(logs[0])
        kind = "probe" if is_probe(logs[0]) else str(logs[0].attrs.get("status", ""))
    else:
        body = compare_body(logs, baseline=baseline, gates=gates)
        name, kind = f"{len(logs)} runs", "compared"
    mark = "✗ " if any(gate.failed for gate in gates) else ""
    sources = _sources(logs, baseline)
    return _document(body, title or name, kind, logs, refresh, mark, sources)


def _document(
    body: Body,
    title: str,
    kind: str,
    logs: Sequence[RunLog],
    refresh: float | None,
    mark: str,
    sources: str,
) -> str:
    script = payload.page_script()
    figures = payload.figures_json(body.panels, step_domain(logs), title)
    live = any(panel.figure is not None for panel in body.panels)
    plotly = payload.plotly_gzip() if live else ""
    nav = "".join(f'<li><a href="#{key}">{safe(label)}</a></li>' for key, label in body.sections)
    style = f":root{{--font:{FONT}}}\n{css_variables()}{payload.asset('page.css')}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{payload.content_security_policy(script)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
{_reloading(refresh)}<meta name="generator" content="homotopy {safe(__version__)}">
<title>{mark}{safe(title)} · homotopy</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#verdict">Skip to the verdict</a>
<div class="frame">
<header class="side">
<div class="brand">{_MARK}homotopy</div>
<div class="run"><b>{safe(title)}</b>{safe(kind)}</div>
<nav aria-label="sections"><ul>{nav}</ul></nav>
<button type="button" id="theme" aria-label="switch between light and dark" hidden>{_HALF}
<span>light / dark</span></button>
</header>
<main>
{_live(refresh, logs)}<p id="notice" class="notice" hidden></p>
<noscript><p class="notice">Scripts are blocked here, so the curves below are static.
Verdict, numbers and tables are complete.</p></noscript>
{body.html}
<footer>Made by homotopy {safe(__version__)} from {safe(sources)}. One file; it makes no
network request.</footer>
</main>
</div>
<script type="application/json" id="homotopy-data">{figures}</script>
<script type="text/plain" id="plotly-gzip">{plotly}</script>
<script>{script}</script>
</body>
</html>
"""


def _reloading(refresh: float | None) -> str:
    """A reload by the browser itself: no script, no network, and the policy allows it."""
    return "" if refresh is None else f'<meta http-equiv="refresh" content="{round(refresh)}">\n'


def _live(refresh: float | None, logs: Sequence[RunLog]) -> str:
    if refresh is None:
        return ""
    at = max((int(log.step[-1]) for log in logs if len(log.step)), default=0)
    every = words.plural(round(refresh), "second")
    return (
        f'<p class="live-note"><b>Live</b> Step {words.count(at)}. This page reloads every {every} '
        "until the run ends.</p>\n"
    )


def step_domain(logs: Sequence[RunLog]) -> tuple[float, float]:
    """The shared step axis: every step, probe and evaluation of every run, with a margin."""
    ends = [
        float(edge)
        for log in logs
        for steps in (log.step, log.probe_step, log.eval_step)
        if np.size(steps)
        for edge in (np.min(steps), np.max(steps))
    ]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    margin = 0.012 * (high - low) or 0.5
    return round(low - margin, 4), round(high + margin, 4)


def _sources(logs: Sequence[RunLog], baseline: RunLog | None) -> str:
    names = [_file(log) for log in logs]
    said = ", ".join(names) if len(names) <= 4 else words.plural(len(names), "log")
    if baseline is None:
        return said
    run = str(baseline.attrs.get("run_id", ""))
    return f"{said}; the baseline is {_file(baseline)}{f' (run {run})' if run else ''}"


def _file(log: RunLog) -> str:
    return str(log.path).replace("\\", "/").rsplit("/", 1)[-1]
