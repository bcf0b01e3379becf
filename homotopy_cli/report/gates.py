"""Gates: `--fail-on EXPR`, evaluated on metrics by a small safe language.

    final_loss > baseline.final_loss * 1.02        names, baseline.NAME, numbers, + - * /, ( )
    spikes > 3 or max_edge_ratio >= 1              comparisons (chains too), and, or, not
    layers.max(kappa) > 1e4, not converged         layers.max/min/mean(COLUMN); abs, min, max
    overhead > 5%                                  a percentage is a fraction: 0.05
    max_lambda_max > +20%                          with a sign: against baseline.max_lambda_max

The language is in expressions.py. A gate fires when the expression is true. A metric that was
not measured, or is undefined, makes the gate "not evaluable", and that counts as failed: silence
must not pass a bad run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from homotopy_cli.report.expressions import NotEvaluable, Walker
from homotopy_cli.report.words import number


@dataclass(frozen=True)
class GateResult:
    """One gate: whether it fired, and the numbers it was decided on."""

    expression: str
    fired: bool  # the condition for failure is true
    evaluable: bool  # False: a metric is missing or undefined
    reason: str  # in words: the values, or why it is not evaluable
    values: Mapping[str, float | None] = field(default_factory=dict)  # names used -> values
    run: str = ""  # which run, where several were judged
    path: str = ""  # its log

    @property
    def failed(self) -> bool:
        """Exit code 1: it fired, or could not be decided."""
        return self.fired or not self.evaluable

    @property
    def outcome(self) -> str:
        """passed, failed, or not evaluable."""
        return "not evaluable" if not self.evaluable else "failed" if self.fired else "passed"

    @property
    def message(self) -> str:
        """One line for a terminal: the expression and the values it was decided on."""
        return f"{self.expression}: {self.reason}" if self.reason else self.expression

    @property
    def alarm(self) -> str:
        """The line that a failed gate is told by."""
        of = f" on {self.path}" if self.path else ""
        said = f"gate fired{of}" if self.fired else f"gate not evaluable{of}, counts as fired"
        return f"{said}: {self.message}"

    def document(self) -> dict[str, Any]:
        """As strict JSON values."""
        values = {k: None if v is None else float(v) for k, v in self.values.items()}
        judged = {"run": self.run, "path": self.path} if self.run else {}
        return {
            **judged,
            "expression": self.expression,
            "outcome": self.outcome,
            "failed": self.failed,
            "reason": self.reason,
            "values": values,
        }


def evaluate(
    expression: str, names: Mapping[str, Any], *, baseline: str = "--baseline OLD.h5"
) -> GateResult:
    """Decide one gate.

    Args:
        expression: See the module's docstring.
        names: Metric -> number, bool, None (not measured), or a mapping with `value`; `baseline`
            -> such a mapping, or None if no baseline was given; `layers` -> column -> values, or
            a list of mappings, one per layer.
        baseline: The option that gives one, for a hint.

    Raises:
        HomotopyError: Not an expression of this language, or an unknown name.
    """
    walker = Walker(expression, names, baseline)
    try:
        fired = bool(walker.run())
    except NotEvaluable as missing:
        return GateResult(expression, False, False, str(missing), walker.used)
    shown = ", ".join(f"{name} = {_show(value)}" for name, value in walker.used.items())
    return GateResult(expression, fired, True, shown, walker.used)


def evaluate_all(
    expressions: Sequence[str], names: Mapping[str, Any], *, baseline: str = "--baseline OLD.h5"
) -> tuple[GateResult, ...]:
    """Decide every gate, or none where one of them cannot be: nothing is told of the others then.

    Args:
        expressions, names, baseline: See evaluate.

    Raises:
        HomotopyError: As evaluate, for the first that is at fault.
    """
    return tuple(evaluate(expression, names, baseline=baseline) for expression in expressions)


def _show(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else number(value)
