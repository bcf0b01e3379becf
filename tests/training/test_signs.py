"""Early signs of instability against their formulas, written out in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_runs import folder

from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.build import build_run
from homotopy_cli.training.forward import Forward, backward
from homotopy_cli.training.loop import train
from homotopy_cli.training.signs import NoiseScale
from homotopy_cli.training.step import optimizer_step
from homotopy_cli.training.watch import Watch

NAMED = ["model={name: mlp, hidden: [64, 64]}", "loss=cross_entropy"]


def made(path, *more, optimizer="{name: adamw, lr: 1e-2, betas: [0.9, 0.95]}"):
    return build_run(load_recipe(folder(path, optimizer=optimizer), [*NAMED, *more]))


@pytest.mark.parametrize("more", [[], ["clip={max_norm: 0.05}"], ["accumulate=4"]])
def test_update_rms_and_ratio_are_their_formulas(tmp_path, more):
    """StableAdamW's RMS, by hand, from the optimizer's own state after each step."""
    run = made(tmp_path, *more)
    for step in range(4):
        seen = optimizer_step(run, step).values
        rms, ratio = [], []
        for p in run.params:
            if p.numel() < 256:
                continue
            v = run.optimizer.state[p]["exp_avg_sq"].double() / (1 - 0.95 ** (step + 1))
            square = p.grad.double() ** 2
            rms.append(float((square / v.clamp(min=1e-16)).mean().sqrt()))
            ratio.append(float(square.mean() / v.mean()))
        assert len(rms) == 2
        assert seen["update_rms"] == pytest.approx(max(rms), rel=1e-5)
        assert seen["second_moment_ratio"] == pytest.approx(max(ratio), rel=1e-5)
    assert seen["update_rms"] != pytest.approx(1.0, rel=1e-3)


def test_the_first_step_has_rms_one(tmp_path):
    """v̂ is g² then, entry by entry; entries without a gradient count as 0."""
    seen = optimizer_step(made(tmp_path), 0).values
    assert seen["second_moment_ratio"] == pytest.approx(1.0, rel=1e-5)
    assert seen["update_rms"] == pytest.approx(1.0, rel=1e-3)


def test_sgd_has_no_second_moment(tmp_path):
    seen = optimizer_step(made(tmp_path, optimizer="{name: sgd, lr: 0.1}"), 0).values
    assert "update_rms" not in seen and "second_moment_ratio" not in seen


@pytest.mark.parametrize("more", [[], ["accumulate=3"]])
def test_logit_max_is_the_largest_score(tmp_path, more):
    run = made(tmp_path, *more)
    x, _ = run.batch(0)
    expected = float(run.model(x).detach().abs().max())
    assert optimizer_step(run, 0).values["logit_max"] == pytest.approx(expected, rel=1e-6)


def test_a_loss_of_the_users_own_has_no_scores(tmp_path):
    run = build_run(load_recipe(folder(tmp_path)))
    assert "logit_max" not in optimizer_step(run, 0).values


def test_the_noise_scale_of_exact_norms_is_exact():
    """E‖g_B‖² = ‖G‖² + tr Σ/B, McCandlish et al. 2018, eq. A.1, at ‖G‖² = 2, tr Σ = 60."""
    noise = NoiseScale()
    assert noise.value is None
    for rows, of in [(4, 16), (6, 18), (1, 7)]:
        noise.update(math.sqrt(2 + 60 / rows), math.sqrt(2 + 60 / of), rows, of)
    assert noise.value == pytest.approx(30.0, rel=1e-9)


def test_the_noise_scale_of_noisy_gradients_is_found():
    """Gradients drawn from N(G, Σ): 2000 steps of 4 and 32 examples; 30 in expectation.

    The standard error of the averaged ratio at KEEP 0.99, an average over about 200 steps, is
    below 10 % here (measured over seeds: 4 %); three of them are allowed.
    """
    generator = torch.Generator().manual_seed(0)
    mean = torch.full((50,), math.sqrt(2 / 50), dtype=torch.float64)
    noise = NoiseScale()
    for _ in range(2000):
        draws = torch.randn(32, 50, generator=generator, dtype=torch.float64)
        rows = mean + draws * math.sqrt(60 / 50)
        noise.update(float(rows[:4].mean(0).norm()), float(rows.mean(0).norm()), 4, 32)
    assert noise.value == pytest.approx(30.0, rel=0.3)


def test_a_whole_batch_says_nothing_about_noise():
    noise = NoiseScale()
    noise.update(3.0, 3.0, 8, 8)
    noise.update(math.inf, 3.0, 4, 8)
    assert noise.value is None and noise.noise == 0.0


def test_the_first_part_is_measured_alone(tmp_path):
    run = made(tmp_path, "dtype=float64")
    batch = run.batch(0)
    x, y = (part[:6] for part in batch)  # 16 rows in parts of 6, 6, 4
    grads = torch.autograd.grad(F.cross_entropy(run.model(x), y), run.params)
    expected = math.sqrt(sum(float(g.square().sum()) for g in grads))
    backward(run.forward, batch, accumulate=3)
    first = run.forward.first
    assert (first.rows, first.of) == (6, 16)
    assert float(first.norm) == pytest.approx(expected, rel=1e-12)
    backward(run.forward, batch)
    assert run.forward.first is None


def test_the_log_holds_them_and_a_resumed_run_too(tmp_path):
    recipe = folder(tmp_path, optimizer="{name: adamw, lr: 1e-2}", freq=0)
    loaded = load_recipe(recipe, [*NAMED, "accumulate=4"])
    train(loaded, tmp_path / "run.h5")
    log = read_log(tmp_path / "run.h5")
    for name in ("update_rms", "second_moment_ratio", "logit_max"):
        assert np.isfinite(log.steps[name]).all(), name
    assert np.isfinite(log.steps["noise_scale"]).any()
    kept = torch.load(tmp_path / "run.pt", weights_only=True)["loop"]
    assert kept["noise"]["noise"] != 0 and set(kept["spikes"]) == {
        "loss",
        "grad_norm",
        "update_rms",
        "second_moment_ratio",
    }


def rows(n, **planted):
    """Quiet values, with one column changed at the last row."""
    wave = [0.01 * math.sin(i) for i in range(n)]
    made = [
        {"loss": 1 + w, "grad_norm": 2 + w, "update_rms": 1 + w, "second_moment_ratio": 1 + w}
        for w in wave
    ]
    made[-1] |= planted
    return made


@pytest.mark.parametrize(
    ("planted", "events"),
    [
        ({}, []),
        ({"loss": 9.0}, ["SPIKE"]),
        ({"update_rms": 2.2}, []),  # far above its past, and below what is known to matter
        ({"update_rms": 2.4}, ["UPDATE_RMS"]),
        ({"second_moment_ratio": 11.0}, ["SECOND_MOMENT_LAG"]),
    ],
)
def test_which_rows_are_worth_an_event(planted, events):
    watch = Watch()
    found = [event for row in rows(80, **planted) for event in watch.row(row)]
    assert [code for code, _ in found] == events


def test_the_words_of_an_alarm():
    watch = Watch()
    (found,) = (e for row in rows(80, update_rms=4.0) for e in watch.row(row))
    assert found[1].startswith("update_rms 4 is ")
    assert found[1].endswith(
        " sd above its recent mean and above 2.3: a loss spike tends to follow within 8 steps"
    )


def test_a_column_that_is_always_high_is_no_alarm():
    watch = Watch()
    high = [row | {"update_rms": 5 + 0.01 * math.sin(i)} for i, row in enumerate(rows(200))]
    assert [event for row in high for event in watch.row(row)] == []


def test_a_watch_continues_from_an_older_state():
    """A checkpoint from before the alarms knows loss and gradient norm only."""
    watch, other = Watch(), Watch()
    for row in rows(60):
        list(watch.row(row))
    state = watch.state_dict()
    other.load_state_dict({name: state[name] for name in ("loss", "grad_norm")})
    assert [code for code, _ in other.row(rows(1, loss=9.0)[0])] == ["SPIKE"]
    assert other.alarms["update_rms"].state_dict()["values"] == [1.0]


def test_they_change_no_bit_of_the_gradient(tmp_path):
    """Scores are read off, not computed again: the pass is the loss's own."""
    run = made(tmp_path, "dtype=float64")
    batch = run.batch(0)
    plain = torch.autograd.grad(run.loss.function(run.model, batch), run.params)
    backward(Forward(run.model, run.loss, torch.device("cpu")), batch)
    for p, grad in zip(run.params, plain, strict=True):
        assert torch.equal(p.grad, grad)


def test_a_model_too_large_to_copy_lacks_what_needs_the_copy(tmp_path, monkeypatch):
    monkeypatch.setattr("homotopy_cli.training.build.SNAPSHOT_LIMIT", 100)
    seen = optimizer_step(made(tmp_path), 0).values
    assert math.isnan(seen["update_norm"]) and "update_rms" not in seen
    assert seen["second_moment_ratio"] == pytest.approx(1.0, rel=1e-5)
