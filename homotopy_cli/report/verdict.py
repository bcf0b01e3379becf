"""The headline: did it train, where was it unstable, how near the edge, what steered it, where."""

import numpy as np

from homotopy_cli.report import words
from homotopy_cli.report.advice import next_step, trouble
from homotopy_cli.report.endings import LABELS, held_out, training
from homotopy_cli.report.facts import adam_beta1, is_probe, scheduler_name, setting
from homotopy_cli.report.figures.components import alarms as component_alarms
from homotopy_cli.report.figures.edge import RED, edge_finding
from homotopy_cli.report.figures.lr import reason_clause
from homotopy_cli.report.findings import UNFINISHED, Finding, Tone, Verdict
from homotopy_cli.report.layers import grown, sharpest
from homotopy_cli.report.series import column, first_finite, last_finite, probed
from homotopy_cli.report.stability import stability
from homotopy_cli.runlog.reader import RunLog

_DAMAGE = ("damaged", "are missing", "differ in length", "do not fit")  # in a note of the reader


@np.errstate(all="ignore")  # a log may hold 1e308; what overflows is undefined
def verdict(log: RunLog) -> Verdict:
    """Judge one run from its log alone."""
    if is_probe(log):
        return _probe_verdict(log)
    headline, tone = _training(log)
    steady = stability(log)
    findings = [
        steady,
        held_out(log),
        *([] if steady.tone == "bad" else [training(log)]),  # a lasting spike says it already
        Finding("Next", words.sentences([next_step(log)])),
        _edge(log),
        _schedule(log),
        _layers(log),
        Finding("Inside", words.sentences(component_alarms(log)), "watch"),
        *_recording(log),
    ]
    kept = tuple(f for f in findings if f.text)
    if tone == "good" and any(f.tone != "plain" and f.tone != "good" for f in kept):
        tone = "watch" if all(f.tone != "bad" for f in kept) else "bad"
    if tone == "bad":
        past = all(f.label in LABELS for f in kept if f.tone == "bad")
        what = "past its best" if past else "unstable"
        headline = headline.replace("Trained:", f"Trained, but {what}:", 1)
    if tone == "good" and log.attrs.get("status") == "running":
        return Verdict(headline, "plain", kept, UNFINISHED)  # it may have been killed
    return Verdict(headline, tone, kept)


def _training(log: RunLog) -> tuple[str, Tone]:
    recorded = np.asarray(log.steps.get("loss", np.empty(0)), dtype=np.float64)
    n = words.plural(len(log.step), "step")
    if not len(log.step):
        return "No rows: the log ends before its first step.", "bad"
    loss = column(log.steps, "loss")
    if loss is None:
        if len(recorded):
            return f"Diverged: {words.gaps('loss', log.step, recorded)}.", "bad"
        return f"{n}, without a loss column.", "watch"
    first, last = first_finite(loss), last_finite(loss)
    assert first is not None and last is not None
    change = f"loss {words.number(first)} → {words.number(last)}"
    if not np.isfinite(loss[-1]):
        said = words.gaps("loss", log.step, loss)
        if np.isfinite(loss[:-1]).all():  # training stopped at once, as it should
            said = f"loss {words.number(loss[-1])} at step {words.count(log.step[-1])}"
        return f"Diverged: {said}, after {change}.", "bad"
    start, end = _ends(loss)
    if end > 2 * start and end - start > 1e-12:
        factor = words.number(end / start, 3) if start > 0 else "many"
        return f"Got worse: {change} over {n}, up {factor} times.", "bad"
    if end > start:
        return f"Did not train: {change} over {n}.", "bad"
    if len(loss) > 1 and start - end <= 0.01 * abs(start):
        return f"Barely moved: {change} over {n}.", "watch"
    if len(loss) == 1:
        return f"One step: loss {words.number(first)}.", "plain"
    if log.attrs.get("status") in ("running", "interrupted"):
        done, planned = n, setting(log, "steps")
        if isinstance(planned, int) and planned > len(log.step):
            done = f"{words.count(len(log.step))} of {words.plural(planned, 'step')}"
        if log.attrs["status"] == "running":
            return f"Unfinished: {change} in {done}.", "good"
        return f"Interrupted: {change} in {done}.", "watch"
    return f"Trained: {change} in {n}.", "good"


def _ends(loss: np.ndarray) -> tuple[float, float]:
    """Mean loss of the first and of the last 2 % of the finite rows: one batch says little."""
    finite = loss[np.isfinite(loss)]
    n = max(1, len(finite) // 50)
    return float(finite[:n].mean()), float(finite[-n:].mean())


def _edge(log: RunLog) -> Finding:
    text = edge_finding(log)
    ratio = column(log.probes, "edge_ratio")
    if not text or ratio is None:
        return Finding("Edge", "")
    known = ratio[np.isfinite(ratio)]
    settled = known[len(known) // 10 :]  # the first probes of a run are rarely converged
    share = float((settled > RED).mean())
    tone: Tone = "bad" if share > 0.25 else "watch" if share > 0.02 else "good"
    return Finding("Edge", text, tone)


def _schedule(log: RunLog) -> Finding:
    name, clause = scheduler_name(log), reason_clause(log)
    if not clause:
        return Finding("Schedule", "")
    return Finding(
        "Schedule", words.sentences([f"the {name} scheduler: {clause}" if name else clause])
    )


def _layers(log: RunLog) -> Finding:
    step = trouble(log)
    top, at = sharpest(log, until=step)
    before = step is not None and bool(top)
    if not top:
        top, at = sharpest(log)
    if not top:
        return Finding("Layers", "")
    named = words.join([f"{name} ({value})" for name, value in top])
    if is_probe(log):
        return Finding("Layers", f"Most curved: {named}.")
    look = f", the last look up to step {words.count(step)}" if before and step != at else ""
    parts = [f"most curved at step {words.count(at)}{look}: {named}"]
    if before and (growth := grown(log, step)):
        name, factor, since, to = growth
        parts.append(
            f"its gradient grew most in {name}, {words.number(factor, 2)} times from step "
            f"{words.count(since)} to {words.count(to)}"
        )
    return Finding("Layers", words.sentences(parts))


def _recording(log: RunLog) -> list[Finding]:
    """What the reader of this page must be told about the log itself."""
    found = []
    recorded = {name: column(log.steps, name) for name in ("grad_norm", "lr")}
    series = {name: None if v is None else (log.step, v) for name, v in recorded.items()}
    for name, pair in {"kappa": probed(log, "kappa"), **series}.items():
        if pair is not None and (said := words.gaps(name, *pair)):
            found.append(Finding("Data", said + "; drawn as gaps.", "watch"))
    if log.missing:
        found.append(Finding("Data", f"Missing columns: {words.join(list(log.missing))}.", "watch"))
    for axis, steps in (("steps", log.step), ("probes", log.probe_step)):
        if (np.diff(steps) < 0).any():  # a probe and a snapshot may share a step
            text = f"The {axis} are not in increasing order: the log is damaged, curves fold back."
            found.append(Finding("Data", text, "bad"))
    for note in log.notes:
        tone: Tone = "watch" if any(word in note for word in _DAMAGE) else "plain"
        found.append(Finding("Data", words.sentences([note]), tone))
    errors = [event for event in log.events if event.level == "error"]
    if errors:
        first = errors[0]
        text = f"{first.code} at step {words.count(first.step)}: {first.message}"
        more = f" And {words.plural(len(errors) - 1, 'more error')}." if len(errors) > 1 else ""
        found.append(Finding("Error", text + more, "bad"))
    return found


def _probe_verdict(log: RunLog) -> Verdict:
    top = column(log.probes, "lambda_max")
    value = last_finite(top) if top is not None else None
    norm = column(log.probes, "hessian_norm")
    if value is not None:
        headline = f"Sharpness λ_max = {words.number(value)}"
    elif norm is not None and (known := last_finite(norm)) is not None:
        headline = f"Hessian norm ‖H‖ = {words.number(known)}"
    else:
        headline = "One probe"
    loss = column(log.probes, "probe_loss")
    if loss is None:
        loss = column(log.steps, "loss")
    if loss is not None and np.isfinite(loss[-1]):
        headline += f" at loss {words.number(float(loss[-1]))}"
    findings = [*_probe_findings(log), _layers(log), *_recording(log)]
    converged = column(log.probes, "converged")
    tone: Tone = "plain"
    if converged is not None:
        tone = "plain" if converged[-1] == 1 else "watch"
    return Verdict(headline + ".", tone, tuple(f for f in findings if f.text))


def _probe_findings(log: RunLog) -> list[Finding]:
    def one(name: str) -> float | None:
        values = column(log.probes, name)
        return last_finite(values) if values is not None else None

    found = []
    kappa = one("kappa")
    if kappa is not None:
        text = f"κ = {words.number(kappa)}"
        if kappa > 0:
            gain = words.number(0.5 / kappa, 3)
            text += f": a gradient step of 1/‖H‖ is sure to gain {gain} of loss on a quadratic"
        found.append(Finding("Curvature", text + "."))
    top, bottom, residual = one("lambda_max"), one("lambda_min"), one("residual")
    if top is not None and bottom is not None:
        text = f"Spectrum from {words.number(bottom)} to {words.number(top)}"
        if residual is not None:
            text += f" ± {words.number(residual, 2)}"
        found.append(Finding("Spectrum", text + "."))
    if top is not None and top > 0:
        text = f"Gradient descent diverges above a learning rate of {words.number(2 / top, 3)}"
        found.append(Finding("Edge", text + " (2/λ_max)."))
    own = _own_edge(one("edge_threshold"), one("preconditioned_sharpness"), top, adam_beta1(log))
    found.append(Finding("Edge", own))
    converged = column(log.probes, "converged")
    if converged is not None and converged[-1] == 0:
        text = "Not every eigenvalue met its tolerance; see the ±."
        found.append(Finding("Accuracy", text, "watch"))
    return found


def _own_edge(
    c: float | None, scaled: float | None, plain: float | None, beta1: float | None
) -> str:
    """The edge of the optimizer in the checkpoint; "" where it has none of its own.

    Args:
        c: Its stability threshold; None in older logs, where `beta1` tells Adam's.
        scaled: λ_max(P⁻¹H), 1/lr; None for an optimizer without a P.
        plain: λ_max, loss/parameter².
        beta1: Of the recipe's optimizer; None if it is no Adam.
    """
    whose = "The edge of this checkpoint's optimizer"
    if c is None and scaled is not None and beta1 is not None:
        whose, c = "Adam's edge", 2 * (1 + beta1) / (1 - beta1)  # Cohen et al. 2022
    sharp, symbol = (plain, "λ_max") if scaled is None else (scaled, "λ_max(P⁻¹H)")
    if c is None or sharp is None or sharp <= 0 or (scaled is None and c == 2):
        return ""
    rate = words.rate(c / sharp)
    return f"{whose} lies at a learning rate of {rate} ({words.number(c, 3)}/{symbol})."
