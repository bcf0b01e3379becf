"""With a fixed schedule, `train` is a hand-written torch loop, bit for bit, probing or not."""

import numpy as np
import pytest
import torch
from training_runs import folder

from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.recipe.targets import load_target
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.loop import train
from homotopy_cli.zoo.registry import build_data

OPTIMIZERS = {
    "sgd": ("{name: sgd, lr: 0.1, momentum: 0.9}", torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adamw": ("{name: adamw, lr: 1e-2}", torch.optim.AdamW, {"lr": 1e-2}),
}


def plain_loop(recipe, *, model, optimizer, settings, steps, factor=None, max_norm=None):
    """What a user writes by hand; shares only the batches with the code under test."""
    data = build_data("data.npz", recipe.parent)
    torch.manual_seed(1)
    net = load_target(f"model.py:{model}", recipe.parent)()
    net.train()
    opt = optimizer(net.parameters(), **settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, factor or (lambda step: 1.0))
    losses, rates = [], []
    for step in range(steps):
        x, y = data.batch(step, 16, 1)
        opt.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm)
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        schedule.step()
        losses.append(loss.item())
    return net.state_dict(), losses, rates


def assert_bitwise(saved, expected):
    assert saved.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(saved[name], value), name


@pytest.mark.parametrize("freq", [0, 3], ids=["unprobed", "probed"])
@pytest.mark.parametrize("model", ["build", "build_with_state"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_buffers_and_losses_are_those_of_the_plain_loop(tmp_path, name, model, freq):
    text, optimizer, settings = OPTIMIZERS[name]
    recipe = folder(tmp_path, model=model, optimizer=text, freq=freq, eval_every=6)
    result = train(load_recipe(recipe), tmp_path / "run.h5")
    weights, losses, rates = plain_loop(
        recipe, model=model, optimizer=optimizer, settings=settings, steps=20
    )
    assert_bitwise(torch.load(tmp_path / "run.pt", weights_only=True)["model"], weights)
    log = read_log(tmp_path / "run.h5")
    assert log.steps["loss"].tolist() == losses and log.steps["lr"].tolist() == rates
    assert result.tally.n_probes == np.isfinite(log.probes["n_hvp"]).sum()
    assert (len(log.probe_step) > 0) == (freq > 0)


def test_the_logged_rate_is_the_one_used_under_a_schedule(tmp_path):
    """REPORTS C04: the row of step k holds the rate of step k, not of k + 1."""
    recipe = folder(tmp_path, scheduler="{name: linear, warmup: 4}", steps=10)
    train(load_recipe(recipe), tmp_path / "run.h5")
    expected = [0.1 * f for f in (0.25, 0.5, 0.75, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0)]
    assert read_log(tmp_path / "run.h5").steps["lr"] == pytest.approx(
        expected, rel=1e-12, abs=1e-15
    )


def test_norm_clipping_is_torchs_own(tmp_path):
    recipe = folder(tmp_path, more="clip: {name: norm, max_norm: 0.05}")
    train(load_recipe(recipe), tmp_path / "run.h5")
    weights, losses, _ = plain_loop(
        recipe,
        model="build",
        optimizer=torch.optim.SGD,
        settings={"lr": 0.1},
        steps=20,
        max_norm=0.05,
    )
    assert_bitwise(torch.load(tmp_path / "run.pt", weights_only=True)["model"], weights)
    log = read_log(tmp_path / "run.h5")
    assert log.steps["loss"].tolist() == losses
    clipped = log.steps["clip_coef"] * log.steps["grad_norm"]
    assert clipped.max() <= 0.05 and log.steps["clip_coef"].max() < 1.0
    # update = lr * clipped gradient for plain SGD
    assert log.steps["update_norm"] == pytest.approx(0.1 * clipped, rel=1e-4)


def test_a_curvature_scheduler_that_never_acts_gives_its_inner_schedule(tmp_path):
    """alpha 0 measures without acting: bitwise the plain cosine."""
    inner = "{name: cosine, warmup: 4}"
    acting = f"{{name: homotopy, alpha: 0, inner: {inner}}}"
    first = folder(tmp_path / "a", scheduler=acting)
    second = folder(tmp_path / "b", scheduler=inner, freq=0)
    train(load_recipe(first), tmp_path / "a" / "run.h5")
    train(load_recipe(second), tmp_path / "b" / "run.h5")
    a, b = (torch.load(tmp_path / n / "run.pt", weights_only=True)["model"] for n in "ab")
    assert_bitwise(a, b)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    recipe = folder(tmp_path, scheduler="homotopy", optimizer="{name: adamw, lr: 3e-2}")
    for name, more in (("a", ()), ("b", ()), ("c", ("seed=2",))):
        out = tmp_path / name
        out.mkdir()
        train(load_recipe(recipe, more), out / "run.h5")
    read = {name: (tmp_path / name / "run.pt").read_bytes() for name in "abc"}
    assert read["a"] == read["b"] != read["c"]
