"""What a live P bears: the ceiling of adaptive optimizers whose linear edge is low."""

import statistics
from functools import partial

import pytest
import torch
from torch import nn

from homotopy_cli import HomotopyLR
from homotopy_cli.schedulers.baselines import cosine
from homotopy_cli.schedulers.thresholds import live_threshold, stability_threshold

STEPS = 250
ADAM = torch.optim.Adam
CASES = [
    pytest.param(torch.optim.RMSprop, 0.01, id="RMSprop"),
    pytest.param(torch.optim.Adagrad, 0.1, id="Adagrad"),
    pytest.param(torch.optim.NAdam, 0.01, id="NAdam"),
    pytest.param(partial(ADAM, betas=(0.0, 0.99)), 0.01, id="Adam-0"),
    pytest.param(partial(ADAM, betas=(0.5, 0.99)), 0.01, id="Adam-0.5"),
]


def final_loss(make, lr, seed=0, **settings):
    """A ReLU network on eight noisy clusters, batches of 64, a cosine with a warmup."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(8, 20, generator=draw)
    y = torch.randint(8, (800,), generator=draw)
    x = centres[y] + 1.2 * torch.randn(800, 20, generator=draw)
    torch.manual_seed(seed)
    layers = (nn.Linear(20, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 8))
    model, loss = nn.Sequential(*layers), nn.CrossEntropyLoss()
    optimizer = make(model.parameters(), lr=lr)
    inner = cosine(STEPS, warmup_steps=STEPS // 10)
    scheduler = HomotopyLR(optimizer, model, loss, inner=inner, total_steps=STEPS, **settings)
    order = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        rows = torch.randint(len(x), (64,), generator=order)
        optimizer.zero_grad()
        loss(model(x[rows]), y[rows]).backward()
        scheduler.update_curvature(x[rows], y[rows])
        optimizer.step()
        scheduler.step()
    return loss(model(x), y).item()


def middle(make, lr, **settings):
    """The middle one of three seeds: a single run turns on the last bit of a sum."""
    return statistics.median(final_loss(make, lr, seed, **settings) for seed in range(3))


@pytest.mark.parametrize(("make", "lr"), CASES)
def test_a_guard_costs_little_at_a_good_rate_and_saves_one_twenty_times_too_high(make, lr):
    plain = middle(make, lr, enabled=False)
    assert middle(make, lr) < 1.3 * plain
    assert middle(make, 20 * lr) < 0.1 * middle(make, 20 * lr, enabled=False)


def test_the_linear_edge_would_hold_rmsprop_at_a_fraction_of_its_rate():
    rmsprop = torch.optim.RMSprop
    optimizer = rmsprop([nn.Parameter(torch.ones(1))])
    share = stability_threshold(optimizer, 1) / live_threshold(optimizer, 1)
    plain = middle(rmsprop, 0.01, enabled=False)
    assert middle(rmsprop, 0.01, target=0.9 * share) > 1.5 * plain


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (partial(torch.optim.SGD, lr=0.1, momentum=0.9), 3.8),
        (ADAM, 38.0),
        (partial(ADAM, betas=(0.5, 0.99)), 16.0),
        (torch.optim.RMSprop, 20.0),
        (partial(torch.optim.RMSprop, momentum=0.9), 3.8),  # 38 in the rate it amounts to
        (torch.optim.Adagrad, 20.0),
    ],
)
def test_the_live_edge_is_the_linear_one_where_that_is_high(make, expected):
    optimizer = make([nn.Parameter(torch.ones(1))])
    assert live_threshold(optimizer, 10**6) == pytest.approx(expected)


def test_it_follows_bias_correction_and_the_momentum_of_nadam():
    adam = ADAM([nn.Parameter(torch.ones(1))], betas=(0.5, 0.99))
    assert live_threshold(adam, 2) == pytest.approx(16.0 * (1 - 0.5**2))
    nadam = torch.optim.NAdam([nn.Parameter(torch.ones(1))])
    assert live_threshold(nadam, 1000) == pytest.approx(16.0, rel=1e-3)
    assert live_threshold(nadam, 10**6) == pytest.approx(16.0, rel=1e-3)


def test_the_lowest_edge_of_the_groups_counts_each_with_its_own_momentum():
    weights = [nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))]
    groups = [{"params": weights[:1]}, {"params": weights[1:], "betas": (0.5, 0.99)}]
    assert live_threshold(ADAM(groups), 10**6) == pytest.approx(16.0)


def test_other_signals_keep_the_linear_edge():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.RMSprop(model.parameters())
    for signal, c in (("preconditioned_sharpness", 20.0), ("directional", 2.0)):
        scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), signal=signal)
        x, y = torch.randn(16, 3), torch.randint(2, (16,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        scheduler.update_curvature(x, y)
        probe = scheduler._guard.last
        column = {"directional": "directional_sharpness"}.get(signal, signal)
        lr = optimizer.param_groups[0]["lr"]  # the probe has lowered it
        assert probe["edge_ratio"] == pytest.approx(lr * probe[column] / c, rel=1e-6)
