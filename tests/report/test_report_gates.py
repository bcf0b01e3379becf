"""Gates: what they compute, what they refuse, and that silence never passes."""

import pytest

from homotopy_cli.errors import HomotopyError
from homotopy_cli.report.gates import evaluate, evaluate_all

NAMES = {
    "final_loss": 2.0,
    "spikes": 4,
    "overhead": 0.08,
    "max_kappa": None,
    "max_lambda_max": 130.0,
    "converged": False,
    "lambda_max": {"value": 600.0, "residual": 0.5, "converged": True},
    "layers": {"kappa": [1.0, None, 5.0], "lambda_max": [float("nan"), None]},
    "baseline": {"final_loss": 1.9, "max_lambda_max": 100.0, "spikes": None},
}


@pytest.mark.parametrize(
    ("expression", "fired"),
    [
        ("spikes > 3", True),
        ("spikes >= 5", False),
        ("final_loss > baseline.final_loss * 1.02", True),
        ("final_loss > baseline.final_loss * 1.1", False),
        ("final_loss > baseline.final_loss + 0.2", False),
        ("not converged", True),
        ("converged", False),
        ("spikes > 9 or overhead > 5%", True),
        ("spikes > 3 and overhead > 10%", False),
        ("1 < final_loss <= 2", True),
        ("max_lambda_max > +20%", True),
        ("max_lambda_max > +31%", False),
        ("final_loss < -5%", False),
        ("lambda_max > 500", True),
        ("lambda_max.residual > 1", False),
        ("layers.max(kappa) > 4", True),
        ("layers.min(kappa) > 4", False),
        ("layers.mean(kappa) == 3", True),
        ("abs(-final_loss) == 2", True),
        ("max(final_loss, spikes) == 4", True),
        ("min(final_loss, spikes) / 2 - 1 == 0", True),
        ("final_loss > 1e400", False),
    ],
)
def test_expressions(expression, fired):
    result = evaluate(expression, NAMES)
    assert result.evaluable
    assert result.fired is fired
    assert result.failed is fired


def test_the_reason_shows_the_values_it_was_decided_on():
    result = evaluate("final_loss > baseline.final_loss * 1.02", NAMES)
    assert result.reason == "final_loss = 2, baseline.final_loss = 1.9"
    assert result.message == f"{result.expression}: {result.reason}"
    assert result.document()["values"] == {"final_loss": 2.0, "baseline.final_loss": 1.9}


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("max_kappa > 1", "max_kappa was not measured or is undefined"),
        ("not max_kappa > 1", "max_kappa was not measured or is undefined"),
        ("spikes < 99 or max_kappa > 1", "max_kappa was not measured or is undefined"),
        ("spikes > baseline.spikes", "baseline.spikes was not measured or is undefined"),
        ("layers.max(lambda_max) > 1", "layers.max(lambda_max): no layer has a finite lambda_max"),
        ("final_loss / (spikes - 4) > 1", "final_loss / (spikes - 4) has no finite value"),
    ],
)
def test_what_cannot_be_decided_fails_and_says_so(expression, reason):
    result = evaluate(expression, NAMES)
    assert not result.fired and not result.evaluable and result.failed
    assert result.outcome == "not evaluable"
    assert result.reason == reason


@pytest.mark.parametrize(
    ("expression", "message", "hint"),
    [
        ("final_los > 2", "unknown metric 'final_los'", "did you mean 'final_loss'?"),
        ("spikes > 3 and final_los > 2", "unknown metric 'final_los'", "did you mean"),
        ("spikes > 9 or xyz", "unknown metric 'xyz'", "known: final_loss, spikes"),
        ("baseline.final_los > 1", "unknown metric 'baseline.final_los'", "'baseline.final_loss'?"),
        ("layers.max(kapa) > 1", "unknown metric 'kapa'", "did you mean 'kappa'?"),
        ("layers.sum(kappa) > 1", "write layers.max(kappa), .min or .mean", "gates know"),
        ("final_loss >", "not an expression", "gates know"),
        ("", "not an expression", "gates know"),
        ("__import__('os').system('true')", "write layers.max(kappa)", "gates know"),
        ("open('x')", "unknown function 'open'", "gates know"),
        ("(lambda: 1)()", "unknown function", "gates know"),
        ("final_loss.__class__ > 1", "'final_loss' has no parts", "gates know"),
        ("[1, 2] == final_loss", "is not allowed", "gates know"),
        ("final_loss ** 9 > 1", "is not allowed", "gates know"),
        ("'a' == final_loss", "is not allowed", "gates know"),
        ("final_loss in baseline", "only > >= < <= == != compare", "gates know"),
        ("1" + " + 1" * 400, "longer than 1000 characters", "gates know"),
        ("1" + "+1" * 300, "too long an expression", "gates know"),
        ("layers > 2", "'layers' is not a number", "gates know"),
        ("abs(final_loss, 2) > 1", "abs takes one value", "gates know"),
        ("final_loss * 2 > +3%", "a signed percentage follows a metric", "gates know"),
    ],
)
def test_what_is_not_in_the_language_is_a_usage_error(expression, message, hint):
    with pytest.raises(HomotopyError) as caught:
        evaluate(expression, NAMES)
    assert message in caught.value.message
    assert "--fail-on" in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message + caught.value.hint


def test_a_baseline_that_was_not_given_is_asked_for():
    with pytest.raises(HomotopyError) as caught:
        evaluate("final_loss > baseline.final_loss", {"final_loss": 1.0})
    assert caught.value.hint == "add --baseline OLD.h5"


def test_layers_may_be_a_list_of_records_as_the_probe_writes_them():
    names = {"layers": [{"kappa": 3.0, "trace": {"value": 7.0}}, {"kappa": None}]}
    assert evaluate("layers.max(trace) == 7 and layers.max(kappa) == 3", names).fired
    assert not evaluate("layers.max(kappa) > 1", {"layers": []}).evaluable


def test_a_bad_expression_is_found_before_any_gate_is_decided():
    with pytest.raises(HomotopyError):
        evaluate_all(["spikes > 3", "nonsense > 3"], NAMES)


def test_every_gate_is_told_which_option_gives_a_baseline():
    with pytest.raises(HomotopyError) as caught:
        evaluate_all(["spikes > baseline.spikes"], {"spikes": 1}, baseline="--compare OLD.pt")
    assert caught.value.hint == "add --compare OLD.pt"
