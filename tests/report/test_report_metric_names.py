"""What the held-out metric is called: perplexity, accuracy, or nothing the log does not tell."""

from dataclasses import replace

import numpy as np
import pytest
import report_samples as samples

from homotopy_cli.report.compare import compare_body
from homotopy_cli.report.markdown import markdown_summary
from homotopy_cli.report.metrics import metric_name
from homotopy_cli.report.single import run_body

STEPS = np.array([0, 50, 99])
LOSS = np.array([2.3, 1.1, 0.9])
SHARE = np.array([0.1, 0.42, 0.4893])


def log(metric, writer="homotopy 0.1.0"):
    made = samples.plain_log(100, eval_step=STEPS, attrs={"run_id": "a", "writer": writer})
    return replace(made, evals={"eval_loss": LOSS, "eval_metric": metric})


@pytest.mark.parametrize(
    "metric, writer, name",
    [
        (np.exp(LOSS), "homotopy 0.1.0", "perplexity"),
        (np.exp(LOSS), "somebody", "perplexity"),
        (SHARE, "homotopy 0.1.0", "accuracy"),
        (SHARE, "somebody", ""),  # may be an F1
        (SHARE * 30, "homotopy 0.1.0", ""),
        (np.array([np.nan, np.nan, 0.3]), "homotopy 0.1.0", "accuracy"),
        (np.full(3, np.nan), "homotopy 0.1.0", ""),
    ],
)
def test_the_name_is_read_off_the_values(metric, writer, name):
    assert metric_name(log(metric, writer)) == name


@pytest.mark.parametrize(
    "metric, card",
    [
        (np.exp(LOSS), "<dt>perplexity</dt><dd>2.46<small>held out, per token</small></dd>"),
        (SHARE, "<dt>accuracy</dt><dd>48.93\u202f%<small>held out</small></dd>"),
    ],
)
def test_the_card_has_name_and_unit(metric, card):
    assert card in run_body(log(metric)).html


def test_tables_of_several_runs_name_it_where_they_agree():
    both = [log(SHARE), log(SHARE)]
    assert '<th scope="row">accuracy (held out)</th>' in compare_body(both).html
    assert "`val_metric (accuracy)`" in markdown_summary(both)
    mixed = compare_body([log(SHARE), log(np.exp(LOSS))]).html
    assert '<th scope="row">held-out metric</th>' in mixed
