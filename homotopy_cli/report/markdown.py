"""A summary for a CI job page: verdict, gates, key numbers, findings. Well under 64 kB."""

import re
from collections.abc import Sequence

import numpy as np

from homotopy_cli.report import words
from homotopy_cli.report.compare import distinct_names
from homotopy_cli.report.escaping import encodable
from homotopy_cli.report.findings import Verdict
from homotopy_cli.report.gates import GateResult
from homotopy_cli.report.judging import tally
from homotopy_cli.report.labels import agreed_name, difference, metric_text, row_name, shares
from homotopy_cli.report.metrics import METRICS, summarise
from homotopy_cli.report.verdict import verdict
from homotopy_cli.runlog.reader import RunLog

MAX_BYTES = 64_000  # GitHub's limit for a step is 1 MiB; a summary should be read, not scrolled
MAX_FINDINGS = 6
MAX_GATES = 100  # rows; where there are more, those that failed come first
_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+!|~$-])")
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_ICON = {"good": "✅", "watch": "⚠️", "bad": "❌", "plain": "•"}


def escape(text: object, *, limit: int = 300) -> str:
    """Text that Markdown shows as it is, on one line."""
    flat = _BREAKS.sub(" ", str(text)).strip()
    return _SPECIAL.sub(r"\\\1", words.shorten(flat, limit))


def code(text: object) -> str:
    """Text in backticks, usable inside a table."""
    flat = _BREAKS.sub(" ", str(text)).replace("`", "'").replace("|", "\\|").strip()
    return f"`{words.shorten(flat, 200)}`"


@np.errstate(all="ignore")  # a log may hold 1e308; what overflows is undefined
def markdown_summary(
    logs: Sequence[RunLog],
    *,
    baseline: RunLog | None = None,
    gates: Sequence[GateResult] = (),
) -> str:
    """Build the summary: what happened, whether the gates held, the numbers side by side."""
    verdicts = [verdict(log) for log in logs]
    names = distinct_names([*logs, *([baseline] if baseline is not None else [])], baseline)
    parts = [_title(verdicts, names, gates), _table(logs, baseline, names)]
    for name, one in zip(names, verdicts, strict=False):
        parts.append(_findings(one, name if len(logs) > 1 else ""))
    text = "\n\n".join(part for part in parts if part) + "\n"
    return _cut(encodable(text))


def _title(verdicts: Sequence[Verdict], names: Sequence[str], gates: Sequence[GateResult]) -> str:
    lines = []
    if gates:
        mark = "❌" if any(gate.failed for gate in gates) else "✅"
        lines += [f"## {mark} homotopy: {tally(gates)}", _gates(gates)]
    for name, one in list(zip(names, verdicts, strict=False))[:20]:
        mark = _ICON[one.tone]
        head = escape(one.headline)
        lines.append(f"### {mark} {escape(name, limit=60)}: {head}")
    return "\n\n".join(lines)


def _gates(gates: Sequence[GateResult]) -> str:
    if not gates:
        return ""
    several = any(gate.run for gate in gates)
    shown = gates if len(gates) <= MAX_GATES else sorted(gates, key=lambda gate: not gate.failed)
    rows = [
        (f"| {escape(gate.run, limit=60)} " if several else "")
        + f"| {'❌' if gate.failed else '✅'} {gate.outcome} | {code(gate.expression)} | "
        f"{escape(gate.reason)} |"
        for gate in shown[:MAX_GATES]
    ]
    head = ["| result | fails if | values |", "|---|---|---|"]
    if several:
        head = ["| run " + head[0], "|---" + head[1]]
    left = len(gates) - len(rows)
    more = [f"\n{words.count(left)} more in the page."] if left else []
    return "\n".join([*head, *rows, *more])


def _table(logs: Sequence[RunLog], baseline: RunLog | None, names: Sequence[str]) -> str:
    shown = list(logs)[:6]
    metrics = [summarise(log) for log in shown]
    labels = list(names[: len(shown)])
    reference = metrics[0] if len(metrics) > 1 else None
    if baseline is not None:
        reference = summarise(baseline)
        metrics.append(reference)
        labels.append("baseline")
    lines = [
        "| metric | " + " | ".join(escape(label, limit=40) for label in labels) + " |",
        "|---|" + "---:|" * len(labels),
    ]
    for name in METRICS:
        if all(run[name] is None for run in metrics):
            continue
        cells, named = [], agreed_name(name, shown)
        points = shares(name, named)
        for run in metrics:
            change = difference(run[name], reference[name], points) if reference else ""
            text = metric_text(name, run[name], named)
            cells.append(f"{text} ({change})" if change else text)
        lines.append(f"| {code(row_name(name, shown))} | " + " | ".join(cells) + " |")
    if len(logs) > len(shown):
        lines.append(f"\n{words.plural(len(logs) - len(shown), 'further run')} in the page.")
    return "\n".join(lines)


def _findings(one: Verdict, name: str) -> str:
    rows = [
        f"- {_ICON[finding.tone]} **{escape(finding.label)}**: {escape(finding.text)}"
        for finding in one.findings[:MAX_FINDINGS]
    ]
    if not rows:
        return ""
    return "\n".join([*([f"**{escape(name, limit=60)}**"] if name else []), *rows])


def _cut(text: str) -> str:
    data = text.encode("utf-8")
    if len(data) <= MAX_BYTES:
        return text
    kept = data[: MAX_BYTES - 40].decode("utf-8", errors="ignore")
    return kept.rpartition("\n")[0] + "\n\n(cut; the page has everything)\n"
