"""Gates on several runs, and what a failed gate does to the page."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
import report_samples as samples

from homotopy_cli.cli.app import run
from homotopy_cli.errors import HomotopyError
from homotopy_cli.report.gates import GateResult
from homotopy_cli.report.judging import judge, tally, with_gates
from homotopy_cli.report.junit import junit_xml
from homotopy_cli.report.markdown import markdown_summary
from homotopy_cli.report.metrics import metrics_document
from homotopy_cli.report.page import render
from homotopy_cli.report.verdict import verdict

RUNS = Path(__file__).parents[2] / "sample_runs" / "unstable"
CALM = samples.transformer_log(spike=False, path="calm.h5")
WILD = samples.transformer_log(path="wild.h5")


def report(*words: object) -> int:
    return run(["report", *map(str, words)])


def test_a_gate_that_only_the_second_log_breaks_fails_the_report(tmp_path, capsys):
    outputs = {kind: tmp_path / f"gate.{kind}" for kind in ("html", "json", "xml", "md")}
    code = report(
        *(RUNS / "held.h5", RUNS / "run.h5", "--fail-on", "spikes > 0"),
        *("--out", outputs["html"], "--json", outputs["json"]),
        *("--junit", outputs["xml"], "--markdown", outputs["md"]),
    )
    told = capsys.readouterr()
    assert code == 1
    assert told.err == f"gate fired on {RUNS / 'run.h5'}: spikes > 0: spikes = 1\n"
    gates = json.loads(outputs["json"].read_text())["gates"]
    assert [(gate["path"], gate["failed"]) for gate in gates] == [
        (str(RUNS / "held.h5"), False),
        (str(RUNS / "run.h5"), True),
    ]
    cases = list(ElementTree.parse(outputs["xml"]).getroot().iter("testcase"))
    assert [case.get("name") for case in cases] == ["spikes > 0 [homotopy]", "spikes > 0 [cosine]"]
    assert [case.find("failure") is None for case in cases] == [True, False]
    assert "| cosine | ❌ failed | `spikes > 0` | spikes = 1 |" in outputs["md"].read_text()
    page = outputs["html"].read_text()
    assert "<title>✗ 2 runs" in page
    assert "<td>cosine</td><td><code>spikes &gt; 0</code></td>" in page


def test_gates_that_hold_say_on_how_many_logs(tmp_path, capsys):
    logs = (RUNS / "held.h5", RUNS / "run.h5")
    assert report(*logs, "--fail-on", "spikes > 9", "--out", tmp_path / "p.html") == 0
    assert "gates: 1 passed on each of 2 logs" in capsys.readouterr().out
    assert "✗" not in (tmp_path / "p.html").read_text().partition("</title>")[0]


def test_the_baseline_is_compared_with_and_not_judged():
    gates = judge(["spikes > 0"], [CALM], ["calm"], baseline=WILD)
    assert [(gate.run, gate.failed) for gate in gates] == [("", False)]


def test_one_log_keeps_its_documents_keys():
    gates = judge(["spikes > 0"], [WILD], ["wild"])
    document = metrics_document([WILD], gates=gates)["gates"][0]
    assert set(document) == {"expression", "outcome", "failed", "reason", "values"}


def test_a_name_that_is_no_metric_is_refused_on_several_logs():
    with pytest.raises(HomotopyError, match="unknown metric 'spiks'"):
        judge(["spikes > 0", "spiks > 0"], [CALM, WILD], ["calm", "wild"])


def test_a_failed_gate_leads_the_verdict():
    gates = judge(["final_loss > 99", "spikes > 0", "val_metric > 1"], [WILD], ["wild"])
    found = with_gates(verdict(WILD), gates)
    assert (found.tone, found.tag) == ("bad", "gate failed")
    assert found.findings[0].text == (
        "2 of 3 gates failed: spikes > 0, it is 1; val_metric > 1 cannot be decided, "
        "val_metric was not measured or is undefined."
    )
    assert with_gates(verdict(WILD), gates[:1]) == verdict(WILD)


def test_a_failed_gate_stands_above_the_numbers_and_in_the_title():
    gates = judge(["final_loss > 0"], [CALM], ["calm"])
    page = render([CALM], gates=gates)
    assert "<title>✗ gpt_small" in page
    assert '<section id="verdict" class="verdict bad">' in page
    assert page.index('id="gates"') < page.index('class="cards"')
    lines = markdown_summary([CALM], gates=gates).splitlines()
    assert lines[0] == "## ❌ homotopy: 1 of 1 gate failed"
    assert lines[2].startswith("| result |")


def test_a_tally_counts_gates_and_runs():
    one = GateResult("a > 0", True, True, "a = 1", {"a": 1.0})
    held = replace(one, fired=False)
    grid = [replace(gate, run=run) for gate in (one, held) for run in ("x", "y", "z")]
    assert tally(grid) == "1 of 2 gates failed, on 3 of 3 runs"
    grid[0] = replace(grid[0], fired=False)
    assert tally(grid) == "1 of 2 gates failed, on 2 of 3 runs"
    assert tally(grid[3:]) == "all 1 gate passed on each of 3 runs"
    assert tally([held, one]) == "1 of 2 gates failed"


def test_a_column_that_only_one_run_measured_fails_the_others():
    bare = replace(CALM, layer_values={"layer_trace": CALM.layer_values["layer_kappa"]})
    gates = judge(["layers.max(kappa) > 1e9"], [CALM, bare], ["calm", "bare"])
    assert [gate.outcome for gate in gates] == ["passed", "not evaluable"]
    with pytest.raises(HomotopyError, match="unknown metric 'kapa'"):
        judge(["layers.max(kapa) > 1"], [CALM, bare], ["calm", "bare"])


def test_a_hostile_name_or_path_stays_text():
    name = "</td><script>\ud800\x1b[31m|"
    evil = replace(WILD, path=Path(f"{name}.h5"))
    gates = judge(["spikes > 0"], [CALM, evil], ["calm", name])
    page = render([CALM, evil], gates=gates)
    assert "<script>\x1b" not in page
    json.dumps(metrics_document([CALM, evil], gates=gates), ensure_ascii=False).encode("utf-8")
    ElementTree.fromstring(junit_xml(gates))
    rows = [
        line for line in markdown_summary([CALM, evil], gates=gates).splitlines() if "❌" in line
    ]
    assert all("<script" not in row.replace("\\<", "") for row in rows)
