"""Several runs: the order of arms, which end alike, which are not healthy, notes said once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import report_samples as samples
from test_report_page import text_of

from homotopy_cli.report.arms import Arm, arms, in_order
from homotopy_cli.report.findings import Verdict, together
from homotopy_cli.report.page import render
from homotopy_cli.report.panel import shared_notes
from homotopy_cli.report.seeds import apart, endpoint_table, reference
from homotopy_cli.report.several import headline, layers_table, not_healthy, troubles
from homotopy_cli.report.verdict import verdict
from homotopy_cli.runlog.reader import read_log

SAMPLES = Path(__file__).parents[2] / "sample_runs"
HELD, COSINE = (read_log(SAMPLES / "unstable" / name) for name in ("held.h5", "run.h5"))
SWEEP = [read_log(path) for path in sorted((SAMPLES / "sweep").glob("*.h5"))]


def with_recipe(**recipe):
    return replace(samples.plain_log(4), provenance={"recipe_resolved": recipe})


def names(*recipes):
    return [arm.name for arm in arms(in_order([with_recipe(**recipe) for recipe in recipes]))]


def test_arms_stand_in_the_order_of_their_numbers():
    assert names({"lr": 0.1}, {"lr": 0.001}, {"lr": 1e-5}) == ["lr=1e-05", "lr=0.001", "lr=0.1"]
    assert names({"name": "x", "a": 10}, {"a": 9}) == ["a=9", "a=10"]
    assert names({"a": 1, "warmup": 0.1}, {"a": 1}) == ["warmup unset", "warmup=0.1"]
    assert names({"k": "b"}, {"k": "a"}) == ["k=b", "k=a"], "as they came"
    two = [{"a": 2, "k": "x"}, {"a": 1, "k": "y"}, {"a": 1, "k": "x"}]
    assert names(*two) == ["a=1 k=x", "a=2 k=x", "a=1 k=y"]


def ends(*medians, spread=0.01, seeds=6):
    """Arms of six seeds; `spread` is how far a seed lies from its arm's median, not paired."""
    found, values, rng = [], [], np.random.default_rng(0)
    for m in medians:
        found.append(
            Arm(f"lr={m}", tuple(range(len(values), len(values) + seeds)), (*range(seeds),))
        )
        values += list(m + spread * rng.permutation(np.linspace(-1, 1, seeds)))
    return found, values


@pytest.mark.parametrize(
    ("medians", "said"),
    [
        (
            (3, 2, 1.001, 1, 5),
            "lr c to d end alike: loss 1 to 1.001; b and below, and e are worse.",
        ),
        ((3, 1.001, 1), "lr b to c end alike: loss 1 to 1.001; a is worse."),
        ((1, 1.001), "Both arms end alike: loss 1 to 1.001."),
        ((1, 1.001, 1.002), "All 3 arms end alike: loss 1 to 1.002."),
        ((3, 1), "lr=1 ends lowest of 2 arms: loss 1."),
        ((1, 3, 1.001), "lr=1 and lr=1.001 end alike: loss 1 to 1.001; lr=3 is worse."),
    ],
)
def test_a_headline_names_all_that_cannot_be_told_from_the_best(medians, said):
    found, values = ends(*medians)
    assert apart(found, values, "loss", ("lr", list("abcde"))) == said


def test_an_arm_whose_runs_diverged_does_not_win():
    found, values = ends(1.55, 1.5, seeds=3)
    values[4] = values[5] = None
    assert reference(found, values).name == "lr=1.55"
    said = apart(found, values, "loss", None)
    assert said == "lr=1.55 ends lowest of 2 arms: loss 1.55."


def test_an_arm_without_a_common_seed_is_not_compared():
    found, values = ends(2, 3)
    other = Arm("mine", (12,), (99,))
    said = apart([*found, other], [*values, 2.5], "loss", None)
    assert said == "lr=2 ends lowest of those that share its seeds: loss 2."


def test_the_best_arm_is_the_reference_and_a_baseline_is_not():
    found, values = ends(3, 1, 2, spread=0)
    base = Arm("baseline", (18,), (None,))
    assert reference([*found, base], [*values, 0.5]).name == "lr=1"
    metrics = [{"val_loss": None, "final_loss": value} for value in [*values, 0.5]]
    table = endpoint_table([*found, base], metrics)
    assert table.head[6] == "minus lr=1"
    assert [row[6] for row in table.rows] == ["+2", "", "+1", ""]


def test_a_real_sweep_is_not_won_by_what_its_interval_cannot_tell():
    text = text_of(render(SWEEP))
    said = "lr 0.003 to 0.01 cannot be told apart by 3 pairs of seeds: held-out loss 2.209 to 2.211"
    assert f"{said}; 0.03 is worse." in text
    assert "6 of 9 runs worth a look: lr=0.003 seed 3, lr=0.01 seed 1" in text
    assert "At the last look of each run, step 0; medians over the seeds" in text


def test_runs_worth_a_look_make_the_page_so():
    calm, look, bad = (Verdict("", tone, ()) for tone in ("good", "watch", "bad"))
    assert together([calm, look]) == ("watch", "")
    assert together([calm, look, bad]) == ("bad", "")
    assert together([calm, calm]) == ("good", "")
    told = not_healthy([look, bad, look, calm], ["a", "b", "c", "d"])
    assert [f.text for f in told] == [
        "1 of 4 runs unhealthy: b.",
        "2 of 4 runs worth a look: a and c.",
    ]
    assert not_healthy([look] * 9, list("abcdefghi"))[0].text.endswith("a, b, c, d, e and 4 more.")


def test_an_unhealthy_run_says_why_and_where_its_page_is():
    text = text_of(render([HELD, COSINE]))
    assert "1 of 2 runs unhealthy: cosine." in text
    assert "Stability cosine: 1 loss spike, at step 169" in text
    assert "Next cosine: Suspect the learning rate" in text
    assert "Its page homotopy report run.h5" in text
    assert "Stability homotopy:" not in text


def test_details_are_kept_to_a_few_runs_the_worst_first():
    logs = [samples.transformer_log(path=f"odd name {i}.h5") for i in range(6)] + [COSINE]
    judged = [verdict(log) for log in logs]
    found = troubles(logs, judged, list("abcdefg"))
    assert [bool(told) for told in found] == [True] * 3 + [False] * 3 + [True]
    assert found[0][-1].text == "homotopy report 'odd name 0.h5'"


def test_layers_are_ranked_by_the_median_over_the_seeds():
    logs = [samples.transformer_log(n=60, seed=i) for i in range(3)]
    table = layers_table([logs], ["all"])
    last = np.stack([log.layer_values["layer_lambda_max"][-1] for log in logs])
    middle = np.median(last, axis=0)
    top = logs[0].layers[int(middle.argmax())]
    assert table.rows[0][1].startswith(f"{top} · λ_max {middle.max():.3g}")
    assert layers_table([[samples.plain_log(4)]], ["x"]) is None


def test_notes_on_all_runs_are_said_once():
    notes = ["a: 40 of 90 points", "b: fewer", "b: 1\u202f000 of 90 points", "band"]
    assert shared_notes(notes, ["a", "b"]) == (
        "each: 40 to 1\u202f000 of 90 points",
        "b: fewer",
        "band",
    )
    assert shared_notes(["a: same", "b: same"], ["a", "b"]) == ("each: same",)
    assert shared_notes(["a: x"], ["a"]) == ("a: x",)


def test_runs_are_ranked_by_one_measure_that_all_have():
    logs = [samples.plain_log(4), samples.plain_log(4)]
    metrics = [
        {"val_loss": 2.0, "final_loss": 1.0, "nonfinite": 0},
        {"val_loss": None, "final_loss": 1.5, "nonfinite": 0},
    ]
    assert headline(logs, ["a", "b"], metrics).headline.startswith(
        "a ends lowest of 2 runs: loss 1."
    )
    metrics[1]["val_loss"] = 1.9
    assert "b ends lowest of 2 runs: held-out loss 1.9." in headline(logs, "ab", metrics).headline
