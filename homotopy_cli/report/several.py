"""What several runs together come to: which are not healthy and why, and where to look further."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath

import numpy as np

from homotopy_cli.report import words
from homotopy_cli.report.findings import Finding, Verdict, together
from homotopy_cli.report.layers import rank, sharpest
from homotopy_cli.report.panel import Table
from homotopy_cli.report.verdict import verdict
from homotopy_cli.runlog.reader import RunLog

UNEQUAL = 1.05  # times as many steps as the shortest run: worth a word
MAX_DETAILED = 4  # runs whose own findings are repeated; our choice
MAX_NAMED = 6  # runs named in a row
_REPEATED = ("Stability", "Held out", "Loss", "Edge", "Next", "Error", "Data")
_WORDS = {"bad": "unhealthy", "watch": "worth a look"}


def headline(
    logs: Sequence[RunLog],
    names: Sequence[str],
    metrics: Sequence[Mapping[str, float | int | None]],
) -> Verdict:
    """Which run ends lowest, which are not healthy, and what each of them says."""
    verdicts = [verdict(log) for log in logs]
    own = metrics[: len(logs)]
    ended = [run for run in own if not (run["final_loss"] is None and run["nonfinite"])]
    held_out = bool(ended) and all(run["val_loss"] is not None for run in ended)
    measure = "val_loss" if held_out else "final_loss"  # one for all
    scored = [
        (float(run[measure]), name)
        for name, run in zip(names, own, strict=False)
        if any(run is one for one in ended) and run[measure] is not None
    ]
    findings = [*not_healthy(verdicts, names), *_lengths(logs)]
    details = troubles(logs, verdicts, names)
    for i, (name, one) in enumerate(zip(names, verdicts, strict=False)):
        findings += [Finding(one.tag, f"{name}: {one.headline}", one.tone), *details[i]]
    n = words.plural(len(logs), "run")
    if not scored:
        return Verdict(f"{n}, none with a finite loss at its end.", "bad", tuple(findings))
    best = min(scored)
    which = "held-out loss" if held_out else "loss"
    said = f"{best[1]} ends lowest of {n}: {which} {words.number(best[0])}."
    if bad := sum(one.tone == "bad" for one in verdicts):
        said += f" {words.plural(bad, 'run')} unhealthy."
    tone, state = together(verdicts)
    return Verdict(said, tone, tuple(findings), state)


def _lengths(logs: Sequence[RunLog]) -> list[Finding]:
    made = sorted(len(log.step) for log in logs)
    if made[-1] <= UNEQUAL * made[0]:
        return []
    text = f"From {words.count(made[0])} to {words.count(made[-1])} steps: ends are not compared "
    return [Finding("Lengths", text + "at the same step.", "watch")]


def not_healthy(verdicts: Sequence[Verdict], names: Sequence[str]) -> list[Finding]:
    """`5 of 6 runs worth a look: a, b, c, d and e.`, and the same of unhealthy ones, first."""
    found = []
    for tone in ("bad", "watch"):
        mine = [name for name, one in zip(names, verdicts, strict=False) if one.tone == tone]
        if not mine:
            continue
        named = mine if len(mine) <= MAX_NAMED else mine[: MAX_NAMED - 1]
        if len(mine) > len(named):
            named = [*named, f"{words.count(len(mine) - len(named))} more"]
        of = f"{words.count(len(mine))} of {words.plural(len(verdicts), 'run')}"
        text = f"{of} {_WORDS[tone]}: {words.join(named)}."
        found.append(Finding("Runs", text, tone))  # type: ignore[arg-type]
    return found


def troubles(
    logs: Sequence[RunLog], verdicts: Sequence[Verdict], names: Sequence[str]
) -> list[list[Finding]]:
    """Of each run what its own page finds wrong, what to do, and the command that makes the page.

    The unhealthy ones come first where there are more than MAX_DETAILED; the rest, and healthy
    runs, have an empty list.
    """
    order = {"bad": 0, "watch": 1}
    ranked = [i for i, one in enumerate(verdicts) if one.tone in order]
    ranked.sort(key=lambda i: order[verdicts[i].tone])
    found: list[list[Finding]] = [[] for _ in verdicts]
    for i in ranked[:MAX_DETAILED]:
        told = [
            Finding(f.label, f"{names[i]}: {f.text}", f.tone)
            for f in verdicts[i].findings
            if f.label in _REPEATED and (f.tone in order or f.label == "Next")
        ]
        found[i] = [*told, Finding("Its page", f"homotopy report {shlex.quote(_path(logs[i]))}")]
    return found


def _path(log: RunLog) -> str:
    """As it was given; of an absolute path the file's name, for a page tells of no machine."""
    path = PurePath(str(log.path))
    return path.name if path.is_absolute() else path.as_posix()


def layers_table(groups: Sequence[Sequence[RunLog]], names: Sequence[str]) -> Table | None:
    """The three most curved layers of each group of runs, by the median over them."""
    rows = [(name, *_sharpest(runs)) for runs, name in zip(groups, names, strict=True)]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        return None
    padded = tuple(row + ("",) * (4 - len(row)) for row in rows)
    several = any(len(runs) > 1 for runs in groups)
    steps = sorted({at for runs in groups for run in runs if (at := sharpest(run)[1]) >= 0})
    looks = " to ".join(words.count(at) for at in sorted({steps[0], steps[-1]}))
    caption = f"At the last look of each run, step {looks}"
    caption += "; medians over the seeds" if several else ""
    return Table(("run", "first", "second", "third"), padded, caption, (0, 1, 2, 3))


def _sharpest(runs: Sequence[RunLog], n: int = 3) -> list[str]:
    ranked = [(log, ranking) for log in runs if (ranking := rank(log)) is not None]
    if not ranked:
        return []
    measure, label = ranked[0][1].measure, ranked[0][1].label
    values: dict[str, list[float]] = {}
    for log, ranking in ranked:
        if ranking.measure == measure:
            for name, value in zip(log.layers, ranking.latest, strict=True):
                if np.isfinite(value):
                    values.setdefault(name, []).append(float(value))
    middle = {name: float(np.median(seen)) for name, seen in values.items()}
    top = sorted(middle, key=lambda name: -middle[name])[:n]
    return [f"{name} · {label} {words.number(middle[name], 3)}" for name in top]
