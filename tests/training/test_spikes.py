"""The spike detector against series whose spikes are planted."""

import math

import numpy as np
import pytest
import torch

from homotopy_cli.report.spikes import find_spikes
from homotopy_cli.training.spikes import SpikeDetector


def noise(n, seed=0):
    return (2.0 + 0.1 * torch.randn(n, generator=torch.Generator().manual_seed(seed))).tolist()


def events(series, detector):
    return [i for i, value in enumerate(series) if detector.update(value) is not None]


def test_noise_alone_raises_no_event():
    assert events(noise(2000), SpikeDetector()) == []


def test_a_severe_single_spike_is_one_event():
    series = noise(300)
    series[150] = 10.0  # 80 sd
    assert events(series, SpikeDetector()) == [150]


def test_a_moderate_value_must_persist():
    single, lasting = noise(300), noise(300)
    single[150] = 3.0  # 10 sd, once
    lasting[150:154] = [3.0] * 4
    assert events(single, SpikeDetector()) == []
    assert events(lasting, SpikeDetector()) == [152]  # the third consecutive step


def test_crossings_nearby_belong_to_one_event_and_far_ones_do_not():
    series = noise(400)
    series[150] = series[155] = 10.0
    series[250] = 10.0
    assert events(series, SpikeDetector()) == [150, 250]


def test_a_new_level_is_one_event_and_then_the_new_normal():
    series = noise(200) + [value + 8.0 for value in noise(600, seed=1)]
    detector = SpikeDetector()
    assert events(series, detector) == [200]
    assert detector.score(10.0) < 6.0


def test_non_finite_values_count_as_the_worst_score():
    detector = SpikeDetector()
    events(noise(64), detector)
    assert detector.score(math.inf) == math.inf and detector.score(math.nan) == math.inf


def test_falling_losses_are_never_spikes():
    assert events([5.0 * 0.99**i for i in range(500)], SpikeDetector()) == []


def test_a_resumed_detector_gives_the_same_events():
    series = noise(400)
    series[150:154] = [3.0] * 4
    series[300] = 10.0
    whole = SpikeDetector()
    expected = events(series, whole)
    first = SpikeDetector()
    head = events(series[:151], first)
    second = SpikeDetector()
    second.load_state_dict(first.state_dict())
    assert head + [151 + i for i in events(series[151:], second)] == expected
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize("seed", range(40))
def test_a_finished_log_is_judged_as_the_run_was(seed):
    draw = np.random.default_rng(seed)
    series = 2.0 + 0.1 * draw.standard_normal(900) + draw.choice([0.0, 1e6])
    for at in draw.integers(0, 900, size=draw.integers(0, 12)):
        series[at : at + draw.integers(1, 9)] += draw.choice([0.5, 1.0, 3.0, math.inf, math.nan])
    if seed % 3 == 0:
        series[draw.integers(200, 700) :] += 2.0  # a level that stays
    while_running = events(series.tolist(), SpikeDetector())
    assert [spike.row for spike in find_spikes(series)] == while_running
