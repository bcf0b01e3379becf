"""Markdown, JUnit and pages of several runs."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import report_samples as samples
from test_report_page import figures, panel, text_of

from homotopy_cli.report.compare import difference, distinct_names, metrics_table
from homotopy_cli.report.gates import evaluate
from homotopy_cli.report.junit import junit_xml
from homotopy_cli.report.markdown import code, escape, markdown_summary
from homotopy_cli.report.metrics import summarise
from homotopy_cli.report.page import render
from homotopy_cli.report.tables import change_text

GATES = [
    evaluate(expression, {"spikes": 5, "final_loss": 1.2, "max_kappa": None})
    for expression in ("spikes > 3", "final_loss > 2", "max_kappa > 1 and spikes < 1")
]


def runs(n: int, **kwargs):
    rates = (1e-3, 3e-3, 1e-2, 3e-2)
    return [
        samples.transformer_log(n=300, seed=i, lr=rates[i % 4], path=f"runs/{i}/run.h5", **kwargs)
        for i in range(n)
    ]


def test_junit_has_a_case_per_gate():
    root = ElementTree.fromstring(junit_xml(GATES, suite="run.h5"))
    suite = root.find("testsuite")
    assert suite.attrib == {
        "name": "run.h5",
        "tests": "3",
        "failures": "1",
        "errors": "1",
        "skipped": "0",
        "time": "0",
    }
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == [gate.expression for gate in GATES]
    assert [[child.tag for child in case] for case in cases] == [["failure"], [], ["error"]]
    assert cases[0][0].get("message") == "spikes > 3: spikes = 5"


def test_junit_survives_what_xml_cannot_hold():
    gate = replace(GATES[0], reason="\x00\x1b[31m <&> \ud800")
    root = ElementTree.fromstring(junit_xml([gate], suite='a"<b>'))
    assert root.find("testsuite").get("name") == 'a"<b>'


def test_markdown_starts_with_the_gates_and_the_verdict():
    text = markdown_summary([samples.transformer_log()], gates=GATES)
    lines = text.splitlines()
    assert lines[0] == "## ❌ homotopy: 2 of 3 gates failed"
    assert lines[2] == "| result | fails if | values |"
    assert "Trained: loss 4.652 → 1.605 in 2\u202f000 steps." in lines[8]
    assert "| ❌ failed | `spikes > 3` | spikes = 5 |" in lines
    assert "| `final_loss` | 1.605 |" in lines
    assert any(line.startswith("- ⚠️ **Stability**: 1 loss spike") for line in lines)


def test_markdown_says_how_far_the_baseline_is():
    log, base = samples.transformer_log(), samples.transformer_log(seed=4, lr=2e-3, spike=False)
    text = markdown_summary([log], baseline=base, gates=[GATES[1]])
    assert text.startswith("## ✅ homotopy: all 1 gate passed")
    before, now = summarise(base)["lr_max"], summarise(log)["lr_max"]
    assert f"(+{100 * (now / before - 1):.0f}\u202f%)" in text


def test_markdown_keeps_tables_whole_and_stays_small():
    hostile = "a|b`c\n| d | <img src=x> [l](javascript:1)"
    log = samples.transformer_log(n=60)
    log = replace(
        log,
        attrs={"run_id": hostile},
        provenance={},
        layers=tuple(hostile + "x" * 5000 for _ in log.layers),
        notes=(hostile,) * 50,
    )
    text = markdown_summary([log] * 30, gates=[replace(GATES[0], expression=hostile)] * 50)
    assert len(text.encode()) <= 64_000
    table = [line for line in text.splitlines() if line.startswith("| ❌")]
    assert {line.replace("\\|", "").count("|") for line in table} == {4}
    outside = re.sub(r"\\.|`[^`]*`", "", text)  # escaped characters and code spans are inert
    assert "<" not in outside and "](" not in outside
    assert escape("a_b*c") == "a\\_b\\*c"
    assert code("x|`y`\nz") == "`x\\|'y' z`"


def test_several_runs_are_overlaid_and_compared():
    logs = runs(3)
    made = render(logs, baseline=samples.transformer_log(n=300, seed=9, spike=False))
    text = text_of(made)
    keys = [p["key"] for p in figures(made)["panels"]]
    assert keys == ["sweep", "loss", "eval", "lr", "edge", "eigenvalues", "kappa", "norms"]
    traces = panel(made, "loss")["data"]
    assert [t["meta"]["label"] for t in traces] == [
        "lr=0.001",
        "lr=0.003",
        "lr=0.01",
        "baseline",
    ]
    styles = {(t["line"]["color"], t["line"]["dash"]) for t in traces}
    assert len(styles) == 4
    assert "ends lowest of 3 runs" in text
    assert "In brackets: difference from baseline" in text
    assert "optimizer.lr" in text  # what differs in the recipes


def test_a_sweep_needs_three_learning_rates():
    assert "sweep" not in [p["key"] for p in figures(render(runs(2)))["panels"]]
    sweep = panel(render(runs(4)), "sweep")
    assert sweep["data"][0]["x"] == [1e-3, 3e-3, 1e-2, 3e-2]
    assert sweep["layout"]["xaxis"]["type"] == "log"


def test_seeds_of_one_rate_become_a_point_with_its_spread():
    logs = [
        samples.transformer_log(n=200, seed=s, lr=rate)
        for rate in (1e-3, 3e-3, 1e-2)
        for s in (0, 1, 2)
    ]
    for i, log in enumerate(logs):
        log.evals["eval_loss"][-1] = 2.0 + 0.1 * (i % 3)
    drawn = panel(render(logs), "sweep")["data"][0]
    assert drawn["y"] == pytest.approx([2.1, 2.1, 2.1])
    assert drawn["error_y"]["array"] == pytest.approx([0.1, 0.1, 0.1])
    assert drawn["error_y"]["arrayminus"] == pytest.approx([0.1, 0.1, 0.1])


def test_a_diverged_run_counts_with_its_first_loss():
    logs = runs(3)
    logs[2].steps["loss"][150:] = np.nan
    logs[2].evals["eval_loss"][-3:] = np.nan
    text = text_of(render(logs))
    assert "1 run unhealthy." in text
    assert "Diverged: loss non-finite from step 150 (150 rows)" in text


def test_runs_with_the_same_name_get_different_ones():
    log = samples.plain_log()
    names = distinct_names([log, log, replace(log, path="a/run.h5"), replace(log, path="b/x.h5")])
    assert len(set(names)) == 4
    assert names[2:] == ["plain · a", "plain · b"]


def test_differences_in_words():
    assert difference(1.1, 1.0) == "+10\u202f%"
    assert difference(0.5, 1.0) == "−50\u202f%"
    assert difference(3, 0) == "+3"
    assert difference(1.0, 1.0) == difference(None, 1.0) == difference(1.0, None) == ""
    table = metrics_table(["a", "b"], [summarise(samples.plain_log(n)) for n in (50, 100)])
    assert ("steps", "50", "100 (+100\u202f%)") in table.rows


def test_a_factor_instead_of_a_percentage_that_nobody_reads():
    assert difference(1.2, 1.0) == "+20\u202f%" and difference(10.9, 1.0) == "+990\u202f%"
    assert difference(51604.0, 1.0) == "51\u202f604 times"
    assert difference(-50.0, 1.0) == "−5100\u202f%"  # a change of sign is no factor
    assert change_text(3e7, 1.0) == "3e7 times the baseline"


def test_runs_in_folders_of_their_own_are_called_after_them():
    logs = [samples.plain_log(40), samples.plain_log(40)]
    logs = [
        replace(log, path=f"runs/{folder}/run.h5", attrs={"run_id": "quickstart-2026-1-ff47f3"})
        for log, folder in zip(logs, ("early", "late"), strict=True)
    ]
    assert distinct_names(logs) == ["early", "late"]


def test_runs_of_unequal_length_are_not_compared_in_silence():
    logs = [replace(samples.plain_log(n), path=f"{n}.h5") for n in (40, 400)]
    said = "From 40 to 400 steps: ends are not compared at the same step."
    assert said in text_of(render(logs))
    assert "not compared at the same step" not in text_of(render([logs[0], logs[0]]))
