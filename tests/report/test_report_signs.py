"""Early signs on the page: their rows, limits, alarms, and the words before a spike."""

from dataclasses import replace

import numpy as np
import pytest
import report_samples as samples

from homotopy_cli.records import EventRecord
from homotopy_cli.report.figures.signs import signs_panel
from homotopy_cli.report.stability import stability


def log_of(*, events=(), spike_at=(), n=120, **columns):
    """A quiet loss with one-row spikes beyond 20 sd, and the columns given."""
    loss = 1 + 0.01 * np.sin(np.arange(n))
    loss[list(spike_at)] = 5.0
    log = samples.plain_log(n)
    return replace(log, steps={**log.steps, "loss": loss, **columns}, events=tuple(events))


def alarm(step, code="UPDATE_RMS"):
    return EventRecord(step, "info", code, "said by training")


def rms(n=120, **at):
    values = np.full(n, 1.0)
    for step, value in at.items():
        values[int(step.removeprefix("at"))] = value
    return values


def test_each_recorded_sign_has_a_row_and_only_alarms_have_limits():
    log = samples.transformer_log(n=400)
    figure = signs_panel(log).figure
    lines = [trace for trace in figure.data if trace.name != "alarm"]
    assert [t.yaxis for t in lines] == ["y", "y2", "y3", "y4"]
    limits = [(s.yref, s.y0) for s in figure.layout.shapes]
    assert limits == [("y", 2.3), ("y2", 10.0)]
    assert [a.text for a in figure.layout.annotations if "alarm" in a.text] == [
        "alarm 2.3",
        "alarm 10",
    ]
    assert figure.layout.xaxis.title.text == "step" and signs_panel(log).linked


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_the_limit_is_always_inside_the_plot(size):
    log = log_of(update_rms=size * (1 + 0.5 * np.sin(np.arange(120))))
    axis = signs_panel(log).figure.layout.yaxis
    low, high = 10 ** np.array(axis.range) if axis.type == "log" else axis.range
    assert low < 2.3 < high
    assert low <= log.steps["update_rms"].min() and high >= log.steps["update_rms"].max()


def test_alarms_are_marked_where_they_were_raised():
    log = log_of(
        update_rms=rms(at50=3.25, at90=2.9),
        second_moment_ratio=rms(at70=12.0),
        events=[alarm(50), alarm(70, "SECOND_MOMENT_LAG"), alarm(9999), alarm(60, "SPIKE")],
    )
    marks = [trace for trace in signs_panel(log).figure.data if trace.name == "alarm"]
    assert [(m.yaxis, list(m.x), list(m.y)) for m in marks] == [
        ("y", [50], [3.25]),
        ("y2", [70], [12.0]),
    ]


def test_the_panel_says_how_near_and_what_followed():
    log = log_of(
        update_rms=rms(at50=3.25, at96=2.5),
        logit_max=np.linspace(1, 7.5, 120),
        noise_scale=np.where(np.arange(120) < 5, np.nan, 12.0),
        events=[alarm(50), alarm(96)],
        spike_at=[100],
    )
    panel = signs_panel(log)
    assert panel.finding == (
        "Largest update RMS 3.25, at step 50 (alarm 2.3). Largest score 7.5. Noise scale at the "
        "end 12 examples. 2 alarms, at steps 50 and 96; a loss spike followed 1 of them within "
        "8 steps."
    )
    assert panel.table.head == ("step", "update_rms", "logit_max", "noise_scale")
    assert panel.notes == ("An alarm needs its limit and 6 sd above the recent mean",)


@pytest.mark.parametrize(
    ("spike_at", "said"),
    [
        ([], "1 alarm, at step 50; no loss spike followed within 8 steps."),
        ([58], "1 alarm, at step 50; a loss spike followed within 8 steps."),
        ([59], "1 alarm, at step 50; no loss spike followed within 8 steps."),
        ([50], "1 alarm, at step 50; no loss spike followed within 8 steps."),
    ],
)
def test_only_a_spike_one_to_eight_steps_later_counts(spike_at, said):
    log = log_of(update_rms=rms(at50=3.25), events=[alarm(50)], spike_at=spike_at)
    assert signs_panel(log).finding.endswith(said)
    preceded = "an early sign came" in stability(log).text
    assert preceded == ("; a loss spike followed" in said)


def test_the_verdict_names_the_sign_before_a_spike():
    log = log_of(update_rms=rms(at96=3.25), events=[alarm(96)], spike_at=[100])
    said = (
        "an early sign came 4 steps before it (update RMS 3.25 at step 96, above its alarm of 2.3)"
    )
    assert f"; {said}" in stability(log).text
    assert stability(replace(log, events=())).text.count("early sign") == 0


def test_of_several_spikes_it_says_how_many_were_announced():
    log = log_of(
        second_moment_ratio=rms(at79=14.0),
        events=[alarm(79, "SECOND_MOMENT_LAG")],
        spike_at=[50, 80],
    )
    assert (
        "; an early sign came before 1 of the 2 spikes, first 1 step ahead (second-moment ratio "
        "14 at step 79, above its alarm of 10)"
    ) in stability(log).text


def test_a_loss_that_stops_being_finite_may_be_announced_too():
    log = log_of(update_rms=rms(at96=3.25), events=[alarm(96)])
    loss = log.steps["loss"].copy()
    loss[98:] = np.nan
    log = replace(log, steps={**log.steps, "loss": loss})
    assert "; an early sign came 2 steps before it (update RMS 3.25" in stability(log).text


def test_an_event_without_its_row_still_speaks():
    log = log_of(events=[alarm(96)], spike_at=[100])
    assert "(update RMS at step 96, above its alarm of 2.3)" in stability(log).text
    assert signs_panel(log).figure is None


def test_the_empty_panel_says_what_records_them():
    panel = signs_panel(samples.plain_log(20))
    assert panel.finding == "No early sign was recorded."
    assert panel.empty == (
        "This log has no column update_rms, second_moment_ratio, logit_max or noise_scale. "
        "Training records the first two with optimizers that keep second moments (Adam), "
        "logit_max for losses over classes, noise_scale with accumulate above 1."
    )


def test_one_sign_alone_has_its_unit():
    assert signs_panel(log_of(noise_scale=np.full(120, 8.0))).unit == "examples"


@pytest.mark.parametrize("value", [np.inf, 1.7e308, 5e-324, -1.0])
def test_any_number_can_be_drawn(value):
    log = log_of(
        update_rms=rms(at50=value), second_moment_ratio=rms(at50=value), events=[alarm(50)]
    )
    ends = signs_panel(log).figure.layout.yaxis.range
    assert np.isfinite(ends).all() and ends[0] < ends[1]
    assert "NaN" not in signs_panel(log).figure.to_json() and signs_panel(log).finding
