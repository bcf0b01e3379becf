"""One name for a number everywhere on the page, what it means, and how two of them differ."""

from dataclasses import replace

import numpy as np
import pytest
import report_samples as samples
from test_report_page import text_of

from homotopy_cli.report import words
from homotopy_cli.report.figures.lr import reason_clause
from homotopy_cli.report.labels import LABELS, change_text, difference, label, shares
from homotopy_cli.report.metrics import METRICS, summarise
from homotopy_cli.report.page import render
from homotopy_cli.report.tables import cards_html

LOG = samples.transformer_log(n=300)
OTHER = samples.transformer_log(n=300, seed=4, lr=2e-3, path="old/base.h5")


def test_every_metric_has_a_name_and_a_meaning_on_the_page():
    assert list(LABELS) == list(METRICS)
    for page in (render([LOG]), render([LOG, OTHER])):
        text = text_of(page)
        assert "What these numbers mean" in text
        for name, (_, meaning) in METRICS.items():
            assert f"{LABELS[name]} {name} " in text
            assert meaning in text


def test_a_table_of_runs_names_what_the_cards_name():
    text = text_of(render([LOG, OTHER]))
    table = text[text.index("In brackets") : text.index("What these numbers mean")]
    for name, value in summarise(LOG).items():
        if value is not None:
            assert LABELS[name] in table
            assert "_" not in name or name not in table
    assert label("final_loss", [LOG]) == "final loss"


@pytest.mark.parametrize(
    ("metric", "now", "before", "said"),
    [
        ("overhead", 0.17, 0.16, "+1 point"),
        ("overhead", 0.17, 0.043, "+13 points"),
        ("spike_score", 0.0, 2.5, "−2.5 points"),
        ("overhead", 0.17, 0.170001, ""),
        ("final_loss", 1.1, 1.0, "+10\u202f%"),
    ],
)
def test_shares_differ_by_points_of_a_hundred(metric, now, before, said):
    assert difference(now, before, shares(metric)) == said
    if metric != "final_loss":
        card = change_text(now, before, shares(metric))
        assert card == (f"{said} vs baseline" if said else "as baseline")


def test_accuracy_differs_by_points():
    assert difference(0.91, 0.89, shares("val_metric", "accuracy")) == "+2 points"
    assert shares("val_metric", "perplexity") is None


def test_cards_tell_how_long_it_took():
    cards = cards_html(LOG, summarise(LOG))
    assert f"<dt>duration</dt><dd>{words.duration(float(LOG.steps['wall_time'][-1]))}</dd>" in cards
    middle = words.number(float(np.median(LOG.steps["step_seconds"])), 3)
    assert f"<dt>median step</dt><dd>{middle}\u202fs</dd>" in cards
    steps = {name: v for name, v in LOG.steps.items() if name not in ("wall_time", "step_seconds")}
    bare = replace(LOG, steps=steps)
    assert "duration" not in cards_html(bare, summarise(bare))


@pytest.mark.parametrize(
    ("seconds", "said"), [(45.21, "45.2 s"), (750, "12.5 min"), (11_520, "3.2 h"), (2e5, "2.31 d")]
)
def test_durations_in_the_unit_that_fits(seconds, said):
    assert words.duration(seconds) == said.replace(" ", words.THIN_SPACE)


@pytest.mark.parametrize(("rate", "part"), [(0.5, "50\u202f%"), (0.009, "1/11")])
def test_a_cut_is_told_as_the_part_that_was_left(rate, part):
    log = samples.plain_log(10)
    used, schedule = np.full(10, 0.1), np.full(10, 0.1)
    used[4] = 0.1 * rate / (1 if rate == 0.5 else 0.1)
    log = replace(log, steps={"lr": used, "schedule_lr": schedule})
    assert reason_clause(log).endswith(f", down to {part} of the schedule at step 4")


def test_the_sources_name_the_baseline():
    text = text_of(render([LOG], baseline=OTHER))
    assert "from run.h5; the baseline is base.h5 (run gpt_small-1)." in text
    assert "the baseline is" not in text_of(render([LOG, OTHER]))
