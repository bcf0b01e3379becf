"""The numbers behind gates, by hand on small logs and by a naive second implementation."""

import json
import math

import numpy as np
import pytest
import report_samples as samples

from homotopy_cli.report import spikes
from homotopy_cli.report.gates import evaluate
from homotopy_cli.report.metrics import (
    METRICS,
    gate_names,
    metrics_document,
    summarise,
)
from homotopy_cli.report.series import probed
from homotopy_cli.runlog.reader import RunLog


def tiny_log(**changes) -> RunLog:
    steps = {
        "loss": np.array([4.0, 2.0, 3.0]),
        "lr": np.array([0.1, 0.4, 0.2]),
        "step_seconds": np.array([2.0, 1.0, 1.0]),
        "probe_seconds_step": np.array([1.0, np.nan, 0.0]),
    }
    return RunLog.empty(
        step=np.arange(3),
        steps=steps | changes.pop("steps", {}),
        probe_step=np.array([0, 2]),
        probes={
            "lambda_max": np.array([-1.0, 5.0]),
            "kappa": np.array([math.inf, 8.0]),
            "edge_ratio": np.array([0.4, 0.2]),
        },
        eval_step=np.array([0, 3]),
        evals={"eval_loss": np.array([4.5, 2.5]), "eval_metric": np.array([0.25, 0.5])},
        **changes,
    )


def test_metrics_of_a_log_that_fits_on_a_hand():
    assert summarise(tiny_log()) == {
        "final_loss": 3.0,
        "best_loss": 2.0,
        "val_loss": 2.5,
        "val_metric": 0.5,
        "steps": 3,
        "spikes": 0,
        "spike_score": None,  # three rows have no recent past
        "max_lambda_max": 5.0,
        "max_kappa": 8.0,  # the largest finite one
        "max_edge_ratio": 0.4,
        "overhead": 0.25,  # 1 s of 4 s
        "nonfinite": 0,
        "lr_min": 0.1,
        "lr_max": 0.4,
        "warmup_steps": 1,
    }


def test_a_final_loss_that_is_not_finite_is_undefined_not_the_last_good_one():
    log = tiny_log(steps={"loss": np.array([4.0, 2.0, math.nan])})
    metrics = summarise(log)
    assert metrics["final_loss"] is None
    assert (metrics["best_loss"], metrics["nonfinite"]) == (2.0, 1)


def test_an_empty_log_has_every_key_and_no_number():
    metrics = summarise(RunLog.empty())
    assert list(metrics) == list(METRICS)
    assert {k: v for k, v in metrics.items() if v is not None} == {"steps": 0}


def test_overhead_falls_back_on_the_probes_own_clock():
    log = tiny_log()
    del log.steps["step_seconds"], log.steps["probe_seconds_step"]
    log.steps["wall_time"] = np.array([0.0, 5.0, 10.0])
    log.probes["probe_seconds"] = np.array([0.5, 1.5])
    assert summarise(log)["overhead"] == 0.2


def test_layers_in_gates_hold_the_latest_finite_value():
    log = samples.transformer_log(n=200)
    log.layer_values["layer_kappa"][-1, 0] = np.nan
    names = gate_names(log, baseline=samples.plain_log())
    expected = float(log.layer_values["layer_kappa"][-2, 0])
    assert names["layers"]["kappa"][0] == pytest.approx(expected)
    assert names["baseline"]["steps"] == 100


def test_the_document_is_strict_json_with_stable_keys():
    document = metrics_document([samples.plain_log()], baseline=RunLog.empty())
    parsed = json.loads(json.dumps(document, allow_nan=False))
    assert list(parsed) == ["schema_version", "runs", "baseline", "gates", "passed"]
    assert parsed["passed"] is True
    assert parsed["runs"][0]["metrics"]["steps"] == 100


def naive_events(values, window=128, threshold=6.0):
    """The rule of the module docstring, written with lists and statistics over slices."""
    healthy, events, above, since = [], [], 0, 11
    for row, x in enumerate(values):
        past = healthy[-window:]
        score = 0.0
        if len(past) >= 32:
            mean = sum(past) / len(past)
            spread = math.sqrt(sum((v - mean) ** 2 for v in past) / len(past)) or 1e-300
            score = (x - mean) / spread if math.isfinite(x) else math.inf
        if score <= threshold:
            healthy.append(x)
            above, since = 0, since + 1
            continue
        above += 1
        fires = above >= 3 or score > 20
        if above >= 6 and since <= 10:
            healthy.append(x)
        if fires and since > 10:
            events.append(row)
        if fires:
            since = 0
    return events


@pytest.mark.parametrize("seed", range(6))
def test_spike_events_agree_with_a_naive_implementation(seed):
    rng = np.random.default_rng(seed)
    values = 2 + 0.1 * rng.standard_normal(900)
    for at, height, length in ((200, 1.2, 4), (205, 3.0, 1), (400, 5.0, 1), (600, 0.7, 200)):
        values[at : at + length] += height
    if seed % 2:
        values[700] = np.inf
    found = [spike.row for spike in spikes.find_spikes(values)]
    assert found == naive_events(values.tolist())
    assert 400 in found


def test_a_spike_knows_its_height_and_when_it_was_over():
    values = 1 + 0.01 * np.sin(np.arange(300) * 1.7)
    values[150:156] = [2.0, 3.0, 2.5, 2.0, 1.5, 1.0]
    (spike,) = spikes.find_spikes(values)
    assert (spike.row, spike.peak_row, spike.peak) == (150, 151, 3.0)
    assert spike.recovered == 5 and spike.kind == "recovered"
    assert spike.base == pytest.approx(1.0, abs=0.01)


def test_a_level_that_never_returns_is_not_recovered():
    values = np.concatenate([1 + 0.01 * np.sin(np.arange(100)), np.full(60, 9.0)])
    assert spikes.find_spikes(values)[0].kind == "not recovered"


def test_noise_alone_does_not_spike():
    values = np.random.default_rng(0).standard_normal(20_000)
    assert spikes.find_spikes(values) == []
    assert spikes.spike_score(values) == 0.0


@pytest.mark.parametrize("n", [500, 3000])
def test_spike_score_is_the_share_of_far_rows(n):
    rng = np.random.default_rng(n)
    values = rng.standard_normal(n)
    values[300] = 40.0
    window, sd = (1000, 7.0) if n >= 2000 else (128, 6.0)
    far = 0
    for t in range(32, n):
        past = values[max(0, t - window) : t]
        far += abs(values[t] - past.mean()) >= sd * past.std()
    assert spikes.spike_score(values) == pytest.approx(100 * far / n)


def test_a_million_rows_are_judged_in_seconds():
    import time

    values = np.random.default_rng(0).standard_normal(1_000_000)
    values[654_321] = 1e6
    start = time.process_time()
    assert [spike.row for spike in spikes.find_spikes(values)] == [654_321]
    assert time.process_time() - start < 10


def test_a_probe_that_did_not_measure_is_left_out_and_one_that_failed_is_a_gap():
    """NaN beside finite values: not asked for. NaN alone, or infinity: a value that failed."""

    nan, inf = float("nan"), float("inf")
    log = RunLog.empty(
        probe_step=np.array([0, 1, 2, 3]),
        probes={
            "kappa": np.array([1.0, nan, nan, inf]),
            "lambda_max": np.array([2.0, 2.0, nan, 2.0]),
        },
    )
    steps, values = probed(log, "kappa")
    assert steps.tolist() == [0, 2, 3]
    assert np.isnan(values[1]) and np.isinf(values[2])


def test_no_gate_passes_on_an_evaluation_from_before_a_divergence():
    log = samples.transformer_log(n=100, spike=False)
    assert not evaluate("val_loss > 100", gate_names(log)).failed
    last = log.evals["eval_loss"][-1]
    log.evals["eval_loss"][-1] = np.nan
    assert not evaluate("val_loss > 100", gate_names(log)).evaluable
    log.evals["eval_loss"][-1] = last
    log.steps["loss"][-2:] = np.nan
    assert summarise(log)["val_loss"] == last
    found = evaluate("val_loss > 100", gate_names(log))
    assert found.failed and not found.evaluable and "val_loss" in found.reason
