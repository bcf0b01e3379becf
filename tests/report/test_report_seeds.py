"""Runs that differ in their seed only: grouping, bands, differences with an interval."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import report_samples as samples
from test_report_page import figures, panel, text_of

from homotopy_cli.report.arms import Arm, arms, names_by_recipe, paired_difference
from homotopy_cli.report.figures.bands import band, bands_panel
from homotopy_cli.report.metrics import summarise
from homotopy_cli.report.page import render
from homotopy_cli.report.seeds import endpoint, endpoint_table

THIN = "\u202f"


def seeded(rates=(1e-3, 3e-3), seeds=(0, 1, 2), n=200, **kwargs):
    return [
        samples.transformer_log(n=n, seed=seed, lr=rate, path=f"{rate}/{seed}/run.h5", **kwargs)
        for rate in rates
        for seed in seeds
    ]


def with_recipe(recipe, seed=None):
    provenance = {"recipe_resolved": recipe} | ({} if seed is None else {"seed": seed})
    return replace(samples.plain_log(4), provenance=provenance)


def test_runs_are_grouped_by_all_settings_but_seed_out_and_name():
    base = {"optimizer": {"name": "sgd", "lr": 0.1}, "steps": 4}
    logs = [
        with_recipe({**base, "seed": 1, "out": "a.h5", "name": "a"}),
        with_recipe({**base, "seed": 2, "optimizer": {"name": "sgd", "lr": 0.2}}),
        with_recipe({**base, "out": "b.h5"}, seed=3),
        replace(samples.plain_log(4), provenance={}),
        replace(samples.plain_log(4), provenance={}),
    ]
    found = arms(logs)
    assert [arm.runs for arm in found] == [(0, 2), (1,), (3,), (4,)]
    assert found[0].seeds == (1, 3)
    both = arms(logs[:3])
    assert [arm.name for arm in both] == ["lr=0.1", "lr=0.2"]


def test_the_same_run_twice_is_no_spread():
    logs = [samples.transformer_log(n=60), samples.transformer_log(n=60, path="b/run.h5")]
    made = render(logs)
    assert len({t["name"] for t in panel(made, "loss")["data"]}) == 2
    assert "toself" not in str(panel(made, "loss")["data"])


def test_runs_are_named_by_what_differs_if_that_is_little():
    few = [with_recipe({"a": i, "b": 1}) for i in (1, 2)]
    assert names_by_recipe(few) == ["a=1", "a=2"]
    many = [with_recipe({key: i for key in "abcd"}) for i in (1, 2)]
    assert names_by_recipe(many) is None
    assert names_by_recipe(few[:1]) is None
    assert names_by_recipe([few[0], samples.plain_log(4)]) is None
    assert names_by_recipe([few[0], few[0]]) is None


def test_arms_that_differ_in_the_scheduler_bear_its_name():
    logs = [with_recipe({"scheduler": {"name": name}}) for name in ("cosine", "homotopy")]
    assert [arm.name for arm in arms(logs)] == ["cosine", "homotopy"]
    two = [with_recipe({"a": {"lr": i}, "b": {"lr": i}}) for i in (1, 2)]
    assert [arm.name for arm in arms(two)] == ["a.lr=1 b.lr=1", "a.lr=2 b.lr=2"]


def test_a_band_is_the_order_statistics_of_its_runs():
    logs = seeded(rates=(1e-3,), seeds=range(5))
    made = band(logs, "steps", "loss")
    losses = np.sort(np.stack([log.steps["loss"] for log in logs]), axis=0)
    np.testing.assert_array_equal(made.low, losses[0])
    np.testing.assert_array_equal(made.middle, losses[2])
    np.testing.assert_array_equal(made.high, losses[4])
    assert (made.n, made.fewer_from) == (5, None)


def test_beyond_eight_seeds_a_band_is_the_middle_half():
    logs = seeded(rates=(1e-3,), seeds=range(9), n=40)
    made = band(logs, "steps", "loss")
    losses = np.sort(np.stack([log.steps["loss"] for log in logs]), axis=0)
    np.testing.assert_allclose(made.low, losses[2], rtol=1e-14)
    np.testing.assert_allclose(made.high, losses[6], rtol=1e-14)


def test_a_run_that_ends_early_leaves_the_band_and_the_page_says_when():
    logs = seeded(rates=(1e-3,), n=200)
    logs[1].steps["loss"][150:] = np.nan
    made = band(logs, "steps", "loss")
    rest = np.stack([logs[0].steps["loss"], logs[2].steps["loss"]])
    np.testing.assert_array_equal(made.high[150:], rest.max(axis=0)[150:])
    assert made.fewer_from == 150
    drawn = bands_panel(logs, arms(logs), "loss", "Loss", "steps", "loss", "loss", False, True)
    assert any(f"fewer than 3 runs from step {150} on" in note for note in drawn.notes)


def test_probes_at_other_steps_are_interpolated_between_a_runs_own():
    one, two = (
        replace(
            samples.plain_log(10),
            probe_step=np.array(steps),
            probes={"kappa": np.array(values, dtype=float)},
        )
        for steps, values in (([0, 4, 8], [0, 4, 8]), ([0, 8], [2, 10]))
    )
    made = band([one, two], "probes", "kappa")
    assert list(made.steps) == [0, 4, 8]
    np.testing.assert_allclose(made.middle, [1, 5, 9])
    np.testing.assert_allclose(made.high - made.low, 2)


def test_a_column_that_stops_early_says_where():
    logs = seeded(rates=(1e-3,), n=200)
    for log in logs:
        log.probes["edge_ratio"][log.probe_step > 16] = np.nan
    row = ("edge", "Edge ratio", "probes", "edge_ratio", "1", False, True)
    said = bands_panel(logs, arms(logs), *row).finding
    assert said.endswith(" The last value is at step 16 of 200.")
    whole = bands_panel(logs, arms(logs), "loss", "L", "steps", "loss", "loss", False, True)
    assert "last value" not in whole.finding


def test_a_thinned_band_keeps_its_extremes():
    logs = seeded(rates=(1e-3,), seeds=(0, 1), n=20_000)
    logs[0].steps["loss"][12_345] = 99.0
    drawn = bands_panel(logs, arms(logs), "loss", "Loss", "steps", "loss", "loss", False, True)
    area, line = drawn.figure.data
    assert max(area.y) == 99.0 and 12_345 in area.x
    assert len(line.x) < 2200
    assert any("min–max per bin" in note for note in drawn.notes)


ARMS = Arm("first", (0, 1, 2, 3), (1, 2, 3, 4)), Arm("second", (4, 5, 6, 7), (4, 3, 2, 1))


def test_a_difference_pairs_seeds_and_its_interval_is_that_of_all_resamples():
    """Oracle: all 4^4 resamples of four pairs, whose percentiles 10,000 draws approach."""
    ends = [1.0, 2.0, 3.0, 4.0, 4.5, 3.1, 2.3, 1.2]
    found = paired_difference(ARMS[1], ARMS[0], ends)
    differences = np.array([0.5, 0.1, 0.3, 0.2])
    assert (found.n, found.left_out) == (4, 0)
    assert found.median == pytest.approx(0.25)
    every = [np.median(differences[list(i)]) for i in itertools.product(range(4), repeat=4)]
    low, high = np.percentile(every, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.051)
    assert found == paired_difference(ARMS[1], ARMS[0], ends)


def test_pairs_without_an_end_are_left_out_and_counted():
    ends = [1.0, 2.0, None, 4.0, 4.5, 3.1, 2.3, None]
    found = paired_difference(ARMS[1], ARMS[0], ends)
    assert (found.n, found.left_out) == (2, 2)
    assert paired_difference(Arm("x", (0,), (9,)), ARMS[0], ends) is None
    assert paired_difference(Arm("x", (0, 1), (1, 1)), ARMS[0], ends) is None, "which of the two?"
    one = paired_difference(Arm("x", (4,), (1,)), ARMS[0], ends)
    assert one.n == 1 and np.isnan(one.low)


def test_the_page_of_seeds_shows_bands_the_table_and_what_few_pairs_can_tell():
    logs = seeded()
    for i, log in enumerate(logs):
        log.evals["eval_loss"][-1] = 2.0 + 0.01 * i
    made = render(logs)
    assert made == render(logs)
    text = text_of(made)
    assert "lr=0.001 ends lowest of 2 arms: held-out loss 2.01." in text
    assert "The median of lr=0.001 is 2.01; 2 to 2.02 over 3 seeds." in text
    assert "+0.03 against lr=0.001, 95 % interval +0.03 to +0.03." in text
    assert text.count("3 pairs of seeds: below 6, chance alone can make as clear") == 1
    assert "Every metric of 6 runs" in text
    keys = [p["key"] for p in figures(made)["panels"]]
    assert keys == ["loss", "eval", "lr", "edge", "eigenvalues", "kappa", "norms"]
    traces = panel(made, "loss")["data"]
    assert [t["name"] for t in traces] == ["lr=0.001 · 3 seeds"] * 2 + ["lr=0.003 · 3 seeds"] * 2
    assert [t.get("fill") for t in traces] == ["toself", None] * 2
    assert '<button type="button" disabled aria-pressed="true" data-traces="0,1">' in made
    assert "line: median of the seeds; band: smallest to largest" in made


def test_seeds_of_one_recipe_and_a_baseline():
    logs = seeded(rates=(1e-3,))
    made = render(logs, baseline=samples.transformer_log(n=200, seed=9))
    text = text_of(made)
    assert re.search(r"Held-out loss 2\.\d+, median of 3 seeds\.", text)
    assert [t["meta"]["role"] for t in panel(made, "loss")["data"]] == ["blue", "blue", "grey"]


def test_a_diverged_seed_has_no_end_and_is_said():
    logs = seeded()
    logs[4].steps["loss"][150:] = np.nan
    metrics = [summarise(log) for log in logs]
    assert endpoint(metrics)[1][4] is None
    row = endpoint_table(arms(logs), metrics).rows[1]
    assert row[5] == "1" and row[8] == "2"
    text = text_of(render(logs))
    assert "1 of 3 runs unhealthy: Diverged: loss non-finite from step 150 (50 rows)" in text
    assert "1 pair without a finite end left out" in text


def test_without_evaluations_the_training_loss_is_the_end():
    metrics = [summarise(samples.plain_log(n)) for n in (50, 100)]
    assert endpoint(metrics)[0] == "final_loss"


def test_a_sweep_groups_what_differs_in_rate_and_seed_only():
    logs = seeded(rates=(1e-3, 3e-3, 1e-2), seeds=(0,)) + seeded(rates=(1e-3, 3e-3), seeds=(0,))
    for log in logs[3:]:
        log.provenance["recipe_resolved"]["steps"] = 77
    drawn = panel(render(logs), "sweep")["data"]
    assert [t["name"] for t in drawn] == ["steps=77", "steps=2000"]
    assert [len(t["x"]) for t in drawn] == [2, 3]
