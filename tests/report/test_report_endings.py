"""What a run's end says: past its best, a rise that lasted, jumps before the spike rule begins."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import report_samples as samples

from homotopy_cli.records import EventRecord
from homotopy_cli.report.endings import held_out, training
from homotopy_cli.report.events import alarms_before, events_html, merged
from homotopy_cli.report.stability import early_jumps, stability
from homotopy_cli.report.verdict import verdict
from homotopy_cli.runlog.reader import read_log

SAMPLES = Path(__file__).parents[2] / "sample_runs"
UNSTABLE = read_log(SAMPLES / "unstable" / "run.h5")


def evaluated(values, **settings):
    log = samples.transformer_log(spike=False)
    recipe = {**log.provenance["recipe_resolved"], **settings}
    return replace(
        log,
        eval_step=np.arange(len(values)) * 100,
        evals={"eval_loss": np.array(values, dtype=float)},
        provenance={**log.provenance, "recipe_resolved": recipe},
    )


def losing(loss):
    log = samples.plain_log(n=len(loss))
    return replace(log, steps={**log.steps, "loss": np.asarray(loss, dtype=float)})


def test_overfitting_is_bad_and_named_as_such():
    log = evaluated([4.5, 2.0, 1.7, 2.4, 3.3])
    found = held_out(log)
    assert found.tone == "bad"
    assert found.text == (
        "Ended at 3.3, 94\u202f% above its best, 1.7 at step 200: keep_best would have kept that "
        "one."
    )
    assert verdict(log).headline.startswith("Trained, but past its best: loss")
    kept = held_out(evaluated([4.5, 1.7, 1.8], keep_best=True))
    assert kept.tone == "watch"
    assert kept.text.endswith("1.7 at step 100; best.pt holds the weights of that one.")


@pytest.mark.parametrize("values", [[3, 2, 1], [3, 1, 1.019], [1], [np.nan] * 3, [3, 0, 1]])
def test_an_end_near_the_best_is_no_finding(values):
    assert not held_out(evaluated(values)).text


def test_a_rise_of_a_loss_that_was_nearly_zero_is_none():
    assert not held_out(evaluated([2.3, 1e-9, 2e-9])).text


def test_a_loss_that_creeps_up_is_told_with_its_lowest():
    n = np.arange(500)
    down_and_up = 2 + 2 * np.exp(-n / 40) + np.clip(n - 250, 0, None) / 200
    noise = 0.05 * np.random.default_rng(0).standard_normal(500)
    found = training(losing(down_and_up + noise))
    assert found.tone == "watch"
    assert "above its lowest" in found.text
    assert not training(losing(2 + 2 * np.exp(-n / 40) + noise)).text
    assert not training(losing(2 + 2 * np.exp(-n / 40) + 12 * noise)).text


def test_a_spike_that_lasts_is_told_once():
    loss = 2 + 0.02 * np.random.default_rng(0).standard_normal(400)
    loss[0], loss[200:] = 4.0, loss[200:] + 3
    found = verdict(losing(loss))
    assert stability(losing(loss)).tone == "bad"
    assert "Loss" not in [f.label for f in found.findings]


@pytest.mark.parametrize("name", ["quickstart/run.h5", "unstable/held.h5", "layers/run.h5"])
def test_sound_runs_are_not_past_their_best(name):
    log = read_log(SAMPLES / name)
    assert not held_out(log).text
    assert not training(log).text
    assert stability(log).text == "No loss spike."


def test_a_jump_before_the_rule_begins_is_worth_a_look():
    found = stability(read_log(SAMPLES / "sweep" / "lr=3e-2_seed=1.h5"))
    assert found.tone == "watch"
    assert found.text == (
        "The loss jumped once at step 16, 3.39 to 8.96. No loss spike from step 32 on."
    )


def test_early_jumps_are_neither_noise_nor_a_rise_from_the_start():
    rng = np.random.default_rng(1)
    for scale in (0.001, 0.05, 0.3):
        assert not early_jumps(2 * np.exp(-np.arange(40) / 30) + scale * rng.random(40))
    assert not early_jumps(np.linspace(1, 9, 40))
    loss = np.linspace(5, 3, 40)
    loss[[12, 15, 28]] = 9, 8, 7  # one row each, and the last is below what was before
    assert early_jumps(loss) == [12]
    loss[29] = 7  # it lasts
    assert early_jumps(loss) == [12, 28]


def test_heavy_tails_are_no_rise_and_seldom_a_jump():
    """Losses that only fall, with hard batches and lognormal or correlated noise."""
    rng, n = np.random.default_rng(0), np.arange(1000)
    fall = 1 + 2 * np.exp(-n / 100)
    hard = 0.05 + 2 * np.exp(-n / 100)
    rises = jumps = 0
    for _ in range(40):
        wander = np.convolve(rng.normal(size=1100), 0.9 ** np.arange(60))[100:1100]
        for loss in (
            hard + (rng.random(1000) < 0.05) * rng.random(1000),
            fall * np.exp(rng.normal(0, 0.3, 1000)),
            fall * (1 + 0.03 * wander),
        ):
            rises += bool(training(losing(loss)).text)
            jumps += bool(early_jumps(loss))
    assert rises <= 3 and jumps <= 12


def test_a_note_of_damage_is_worth_a_look():
    log = replace(samples.transformer_log(spike=False), notes=("its checksum differs: damaged",))
    assert [f.tone for f in verdict(log).findings if "checksum" in f.text] == ["watch"]
    calm = replace(log, notes=("12 rows of earlier attempts hidden",))
    assert [f.tone for f in verdict(calm).findings if "hidden" in f.text] == ["plain"]


def test_alarms_that_led_up_to_the_spike_are_quoted():
    assert "the run gave 19 alarms from step 137 on" in stability(UNSTABLE).text
    assert alarms_before(UNSTABLE.events, 136) is None


def test_events_that_repeat_are_one_row():
    rows = [row for row in merged(UNSTABLE.events) if row.code == "ALARM"]
    assert [(row.first, row.last, row.times) for row in rows] == [(80, 80, 1), (137, 204, 50)]
    assert rows[1].message == "grad_norm and loss out of range"
    html = events_html(UNSTABLE.events)
    assert "137–204" in html
    assert "<b>50 times</b>" in html
    assert html.count("<strong><code>SPIKE</code></strong>") == 2


def test_merged_rows_count_every_event_and_keep_what_differs():
    events = [
        EventRecord(1, "info", "ALARM", "loss out of range"),
        EventRecord(4, "info", "ALARM", "over: it was seen 3 times in a row"),
        EventRecord(5, "info", "LR", "rate 1"),
        EventRecord(6, "info", "LR", "rate 2"),
        EventRecord(7, "warning", "LR", "rate 2"),
        EventRecord(8, "info", "LR", "rate 2"),
        EventRecord(90, "info", "ALARM", "loss out of range"),
    ]
    told = [(row.code, row.first, row.last, row.times) for row in merged(events)]
    assert told == [
        ("ALARM", 1, 4, 3),
        ("LR", 5, 5, 1),
        ("LR", 6, 8, 2),
        ("LR", 7, 7, 1),
        ("ALARM", 90, 90, 1),
    ]
