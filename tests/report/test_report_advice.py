"""The headline's last word: what to do, as far as the log supports it."""

from dataclasses import replace

import numpy as np
import pytest
import report_samples as samples

from homotopy_cli.records import EventRecord
from homotopy_cli.report.advice import next_step, trouble
from homotopy_cli.report.figures.components import alarms
from homotopy_cli.report.layers import grown, sharpest
from homotopy_cli.report.page import render
from homotopy_cli.report.stability import stability
from homotopy_cli.report.verdict import verdict


def spiked(*ratios, at=(20, 40, 58), held=False, clip=False, lr=0.5):
    """100 steps at one rate, a spike at step 60, probes with these edge ratios."""
    log = samples.plain_log(100)
    steps = {"loss": 1 + 0.01 * np.sin(np.arange(100.0)), "lr": np.full(100, lr)}
    steps["loss"][60:63] = 9.0
    if held:
        steps["ceiling_lr"] = np.where(np.arange(100) < 20, np.nan, 2 * lr)
    if clip:
        steps["clip_coef"] = np.ones(100)
    return replace(
        log,
        steps=steps,
        probe_step=np.array(at[: len(ratios)]),
        probes={"edge_ratio": np.array(ratios)} if ratios else {},
        provenance={"recipe_resolved": {"scheduler": {"name": "curvature_warmup"}}},
    )


def test_the_rate_is_suspected_where_the_probes_before_were_near_the_edge():
    assert trouble(spiked(0.1)) == 60
    said = next_step(spiked(0.1, 2.0, 4.0))
    # of the probes beyond, the one that allows most: 0.5 / 2
    assert said.startswith(
        "suspect the learning rate: at step 40 it was 0.5, beyond the edge at 0.25."
    )
    assert "HomotopyLR" in said
    near = next_step(spiked(0.1, 0.2, 0.8))
    assert "at step 58 it was 0.5, near the edge at 0.625" in near


def test_a_ceiling_that_did_not_hold_is_told_how_to():
    said = next_step(spiked(0.1, 0.2, 0.8, held=True))
    assert said.startswith(
        "the ceiling was too late or too high; the last probe came 2 steps before"
    )
    assert "curvature.budget" in said and "scheduler.target" in said


def test_the_rate_is_not_blamed_where_the_probes_do_not():
    said = next_step(spiked(0.1, 0.2, 0.3))
    assert said.startswith(
        "the probes do not blame the learning rate (the last came 2 steps before)"
    )
    assert said.endswith("No clipping was recorded: it bounds what one batch can do")
    assert "clipping" not in next_step(spiked(0.1, 0.2, 0.3, clip=True))
    old = next_step(spiked(0.1, 0.2))
    assert "the last probe came 20 steps before" not in old  # 20 is not stale yet
    assert "too early to clear the learning rate" in next_step(spiked(0.1))


def test_without_a_probe_nothing_is_claimed():
    assert next_step(spiked()).startswith("no probe before step 60: this log cannot tell")
    late = spiked(5.0, at=(61,))
    assert next_step(late).startswith("no probe before step 60")


def test_a_calm_run_needs_no_advice_and_an_open_log_says_what_it_may_be():
    calm = samples.transformer_log(n=100, spike=False)
    assert next_step(calm) == ""
    open_log = replace(calm, attrs={**calm.attrs, "status": "running"})
    assert "goes on, or was killed; homotopy train --resume" in next_step(open_log)
    foreign = replace(open_log, provenance={})
    assert next_step(foreign).endswith("the run goes on, or was killed")


def test_the_layers_are_those_before_the_spike_not_those_at_the_end():
    values = np.array([[1.0, 2.0], [5.0, 3.0], [0.1, 9.0]])
    grads = np.array([[1.0, 1.0], [1.0, 50.0], [1.0, 1.0]])
    log = replace(
        spiked(0.1, 0.2, 0.3, at=(20, 40, 80)),
        layers=("early", "late"),
        layer_values={"layer_lambda_max": values, "layer_grad_norm": grads},
    )
    assert sharpest(log)[0][0] == ("late", "λ_max 9")
    assert sharpest(log, until=60) == ([("early", "λ_max 5"), ("late", "λ_max 3")], 40)
    assert grown(log, 60) == ("late", 50.0, 20, 40)
    assert grown(log, 20) is None and grown(log, 100) is None
    text = next(f.text for f in verdict(log).findings if f.label == "Layers")
    assert text.startswith("Most curved at step 40, the last look up to step 60: early (λ_max 5)")
    assert text.endswith("Its gradient grew most in late, 50 times from step 20 to 40.")


def test_collapsed_attention_reaches_the_headline_with_its_layer():
    log = replace(
        spiked(0.1, 0.2, 0.3),
        layers=("a", "b"),
        layer_values={"layer_attention_entropy": np.array([[3, 3], [2, 0.01], [0.001, 0.1]])},
    )
    log.probes["attention_entropy"] = np.array([3.0, 0.01, 0.001])
    said = "attention entropy was 0.01 at step 40 in b, past its alarm of 0.05"
    assert alarms(log) == [said]
    inside = next(f for f in verdict(log).findings if f.label == "Inside")
    assert inside.tone == "watch" and inside.text == said[0].upper() + said[1:] + "."


@pytest.mark.parametrize("rows, said", [(1, "loss NaN at step 99"), (2, "loss non-finite from")])
def test_a_run_that_stopped_at_its_first_nan_says_when(rows, said):
    log = spiked(0.1)
    log.steps["loss"][100 - rows :] = np.nan
    assert verdict(log).headline.startswith(f"Diverged: {said}")


def test_a_spike_is_named_beside_rows_that_are_not_finite():
    log = spiked(0.1)
    rose = stability(log).text
    assert rose.startswith("1 loss spike, at step 60; it rose from")
    log.steps["loss"][30] = np.nan
    both = stability(log)
    assert both.tone == "bad"
    first = "Loss has 1 non-finite value (step 30)"
    assert both.text.startswith(f"{first}; no probe just before it")
    assert ". 1 loss spike, at step 60; it rose from" in both.text
    log.steps["loss"][60:64] = np.nan  # the spike itself is now what is not finite
    assert "spike" not in stability(log).text


def test_an_open_log_is_not_called_healthy():
    """It may be a run that was killed: its numbers are good, its end is unknown."""
    calm = samples.transformer_log(n=100, spike=False)
    assert verdict(calm).tag == "healthy"
    open_log = replace(calm, attrs={**calm.attrs, "status": "running"})
    one = verdict(open_log)
    assert (one.tag, one.tone) == ("unfinished", "plain")
    assert one.headline.startswith("Unfinished: loss ")
    page = render([open_log])
    assert '<span class="tag">unfinished</span>' in page and ">healthy<" not in page
    assert ">healthy<" not in render([open_log, open_log]).partition('id="metrics"')[0]
    spiky = samples.transformer_log()
    assert verdict(replace(spiky, attrs=open_log.attrs)).tag == "worth a look"


def test_a_batch_that_was_not_finite_is_blamed_and_not_the_rate():
    words = "loss is nan: the batch of step 60 holds 1 NaN in x"
    log = replace(spiked(2.0, 4.0), events=(EventRecord(60, "error", "DIVERGED", words),))
    assert next_step(log) == (
        "the batch of step 60 holds 1 NaN in x: look at where the data are made; "
        "the learning rate did not do it"
    )
