"""Runs that go wrong: non-finite, finite but diverged, and held by curvature (cases Y13, Y17)."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_runs import folder

from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.loop import train
from homotopy_cli.training.summary import advice, findings


def run(tmp_path, *sets, **settings):
    recipe = folder(tmp_path, **settings)
    result = train(load_recipe(recipe, sets), tmp_path / "out" / "run.h5")
    return result, read_log(tmp_path / "out" / "run.h5")


@pytest.mark.parametrize("freq", [0, 10], ids=["unprobed", "probed"])
def test_a_non_finite_loss_stops_at_its_step_with_log_and_last_good_checkpoint(tmp_path, freq):
    sgd = "{name: sgd, lr: 1.0e+38}"
    result, log = run(tmp_path, optimizer=sgd, freq=freq, checkpoint_every=1)
    assert (result.status, result.exit_code) == ("diverged", 3)
    assert result.step < 20
    assert result.fault.startswith(f"step {result.step}: ") and "at lr 1e+38" in result.fault
    assert log.attrs["status"] == "diverged" and log.attrs["closed"] == 1
    assert log.step.tolist() == list(range(result.step + 1))
    bad = np.isfinite(log.steps["loss"]) & np.isfinite(log.steps["grad_norm"])
    assert bad.tolist() == [True] * result.step + [False]
    assert [e.step for e in log.events if e.code == "DIVERGED"] == [result.step]
    kept = torch.load(tmp_path / "out" / "run.pt", weights_only=True)
    assert kept["step"] <= result.step
    assert all(torch.isfinite(value).all() for value in kept["model"].values())
    assert "--set scheduler=homotopy" in advice(result)


@pytest.mark.parametrize("lr", ["1.0e+3", "1.0e+38"])
def test_curvature_caps_any_learning_rate_from_the_first_step(tmp_path, lr):
    """Oracle: the first rate is at most 2/λ of the dense Hessian on the probed rows, times 1."""
    sgd = f"{{name: sgd, lr: {lr}}}"
    result, log = run(tmp_path, optimizer=sgd, scheduler="homotopy", freq=10)
    assert result.status == "finished" and np.isfinite(log.steps["loss"]).all()
    assert result.final_loss < result.tally.first_loss
    assert log.steps["lr"].max() < 10.0
    assert (log.steps["schedule_lr"] == float(lr)).all()
    assert (log.steps["lr_reason"] >= 1).all()
    assert result.tally.capped_steps == 20
    assert any("curvature held the learning rate" in text for text in findings(result))


def test_divergence_that_stays_finite_is_said(tmp_path):
    """REPORTS C05: tanh and log-softmax saturate, so NaN never comes."""
    result, log = run(tmp_path, optimizer="{name: sgd, lr: 1.0e+3}", freq=10)
    assert (result.status, result.exit_code) == ("finished", 0)
    rise, sharp = findings(result)[:2]
    factor = log.steps["loss"].max() / log.steps["loss"][0]
    assert factor > 100 and f"rose by a factor of {factor:.3g}" in rise
    assert "diverged without becoming NaN" in rise
    at = np.nanargmax(log.probes["edge_ratio"])
    product = 1e3 * log.probes["lambda_max"][at]
    assert log.probes["edge_ratio"][at] == pytest.approx(product / 2, rel=1e-9)
    assert f"lr x curvature reached {product:.3g} at step {log.probe_step[at]}" in sharp
    assert sharp.endswith("far above the stability threshold 2")
    assert "--set scheduler=homotopy" in advice(result)


COLUMN = {"auto": "lambda_max"} | dict.fromkeys(
    ("directional", "secant", "trust_ratio"), "directional_sharpness"
)


@pytest.mark.parametrize("signal", COLUMN)
def test_the_threshold_is_named_with_the_product_that_it_is_of(tmp_path, signal):
    """Under clipping, and whichever curvature steers; of a watched step clipping is part."""
    sgd = "{name: sgd, lr: 1.0e+3}"
    sets = (f"curvature.signal={signal}",)
    result, log = run(tmp_path, *sets, optimizer=sgd, more="clip: {name: norm, max_norm: 0.5}")
    at = np.nanargmax(log.probes["edge_ratio"])
    step = log.probe_step[at]
    clip = log.steps["clip_coef"][step]
    product = 1e3 * log.probes[COLUMN[signal]][at] * (1.0 if "trust" in signal else clip)
    tally = replace(result.tally, peak_edge=3.0)  # secant and trust_ratio stay below 2 here
    (sharp,) = [text for text in findings(replace(result, tally=tally)) if "curvature" in text]
    what = "lr x curvature, clipping counted in," if clip < 1.0 else "lr x curvature"
    assert sharp.startswith(f"{what} reached {product:.3g} at step {step}, ")
    assert sharp.endswith(" above the stability threshold 2")


def test_an_uneventful_run_has_no_findings(tmp_path):
    result, _ = run(tmp_path)
    assert findings(result) == [] and advice(result) == ""


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    """The loss of the last step is fine, its update is not: the last good file stays."""
    recipe = folder(tmp_path, optimizer="{name: sgd, lr: 3.0e+38}", steps=1, freq=0)
    text = (tmp_path / "model.py").read_text()
    (tmp_path / "model.py").write_text(
        text.replace("cross_entropy(model(x), y)", "cross_entropy(100 * model(x), y)")
    )
    result = train(load_recipe(recipe), tmp_path / "out" / "run.h5")
    assert result.status == "finished"
    kept = torch.load(tmp_path / "out" / "run.pt", weights_only=True)
    assert kept["step"] == 0
    assert result.warnings == ("weights are not finite: kept the last good",)
    assert math.isfinite(result.final_loss)
