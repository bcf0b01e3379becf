"""Gates on one log or several: every gate on every log, and what that means for the verdict."""

from collections.abc import Sequence
from dataclasses import replace

from homotopy_cli.report import words
from homotopy_cli.report.escaping import encodable
from homotopy_cli.report.findings import Finding, Verdict
from homotopy_cli.report.gates import GateResult, evaluate_all
from homotopy_cli.report.metrics import gate_names
from homotopy_cli.runlog.reader import RunLog

FAILED = "gate failed"  # the tag of a page on which one did
MAX_NAMED = 3  # failures spelt out in the verdict; the table has all


def judge(
    expressions: Sequence[str],
    logs: Sequence[RunLog],
    names: Sequence[str],
    *,
    baseline: RunLog | None = None,
) -> tuple[GateResult, ...]:
    """Every gate on every log, gate by gate; the baseline is compared with, not judged.

    Args:
        expressions: See gates.
        logs: At least one.
        names: What each run is called on the page; used where there are several.
        baseline: What `baseline.NAME` stands for.

    Raises:
        HomotopyError: An expression that is none, or an unknown name.
    """
    known = [gate_names(log, baseline) for log in logs]
    columns = dict.fromkeys(column for one in known for column in one["layers"])
    for one in known:  # a column that another run has is no misspelling: it was not measured here
        one["layers"] = {column: [] for column in columns} | one["layers"]
    judged = [evaluate_all(expressions, one) for one in known]
    if len(logs) == 1:
        return judged[0]
    return tuple(
        replace(gates[i], run=encodable(name), path=encodable(str(log.path)))
        for i in range(len(expressions))
        for log, name, gates in zip(logs, names, judged, strict=False)
    )


def tally(gates: Sequence[GateResult]) -> str:
    """`2 of 3 gates failed`, `all 3 gates passed`; of several runs also on how many."""
    runs = len({gate.run for gate in gates})
    n = len(gates) // max(runs, 1)
    held = words.plural(n, "gate")
    failed = [i for i, gate in enumerate(gates) if gate.failed]
    if not failed:
        return f"all {held} passed" + (f" on each of {runs} runs" if runs > 1 else "")
    if runs == 1:
        return f"{words.count(len(failed))} of {held} failed"
    kinds = len({i // runs for i in failed})
    hit = len({gates[i].run for i in failed})
    return f"{words.count(kinds)} of {held} failed, on {words.count(hit)} of {runs} runs"


def with_gates(verdict: Verdict, gates: Sequence[GateResult]) -> Verdict:
    """The same verdict led by the gates that failed; unchanged where none did."""
    failed = [gate for gate in gates if gate.failed]
    if not failed:
        return verdict
    told = [_said(gate) for gate in failed[:MAX_NAMED]]
    if len(failed) > MAX_NAMED:
        told.append(f"{words.count(len(failed) - MAX_NAMED)} more in the table")
    finding = Finding("Gates", f"{words.sentences([tally(gates)])[:-1]}: {'; '.join(told)}.", "bad")
    return replace(verdict, tone="bad", findings=(finding, *verdict.findings), state=FAILED)


def _said(gate: GateResult) -> str:
    """`val_loss > 1.5, it is 1.634`."""
    of = f" on {gate.run}" if gate.run else ""
    if not gate.evaluable:
        return f"{gate.expression}{of} cannot be decided, {gate.reason}"
    if len(gate.values) == 1:
        return f"{gate.expression}{of}, it is {gate.reason.partition(' = ')[2]}"
    return f"{gate.expression}{of}" + (f" ({gate.reason})" if gate.reason else "")
