"""The founding promise: warmup without a warmup schedule, on a transformer under AdamW."""

import pytest
import torch
from torch import nn

from homotopy_cli.schedulers.homotopy import HomotopyLR
from homotopy_cli.zoo.gpt import GPT


def loss(model, tokens):
    logits = model(tokens[:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def batch(step):
    """Rows counting upwards by a stride of 1 to 3: learnable, and never twice the same."""
    generator = torch.Generator().manual_seed(step)
    start = torch.randint(0, 16, (8, 1), generator=generator)
    stride = torch.randint(1, 4, (8, 1), generator=generator)
    return (start + stride * torch.arange(17)) % 16


def train(norm, lr, steps, **settings):
    torch.manual_seed(0)
    model = GPT(16, layers=2, heads=2, width=32, context=16, norm=norm)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95))
    scheduler = HomotopyLR(optimizer, model, loss, total_steps=steps, **settings)
    rates, losses = [], []
    for step in range(steps):
        optimizer.zero_grad()
        value = loss(model, batch(step))
        value.backward()
        scheduler.update_curvature(batch=batch(step))
        rates.append(optimizer.param_groups[0]["lr"])
        losses.append(value.item())
        optimizer.step()
        scheduler.step()
    return rates, losses, scheduler


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_warmup_emerges_from_a_constant_schedule(norm):
    rates, losses, scheduler = train(norm, 1e-2, 150)
    assert rates[0] <= 1e-4 * (1 + 1e-9)  # a hundredth of the rate asked for
    release = scheduler._guard.settings.release_rate
    assert release == pytest.approx(100 ** (1 / 37.5))  # from the floor in a quarter of the run
    for step, rate in enumerate(rates):
        assert rate <= rates[0] * release**step * (1 + 1e-9)
    peak = max(rates)
    assert peak > 20 * rates[0]
    assert rates.index(peak) > 30
    assert losses[-1] < 0.6 * losses[0]
    assert scheduler.overhead < 0.25  # a short run: the guaranteed start is not amortised


def test_without_the_ceiling_the_same_rate_spikes_at_the_start():
    """The contrast: at alpha = 0 the first steps at the full rate push the loss far up."""
    _, plain, _ = train("post", 1e-1, 12, alpha=0.0)
    _, guarded, _ = train("post", 1e-1, 12)
    assert max(plain) > plain[0] + 0.5
    assert max(guarded) < guarded[0] + 0.2
