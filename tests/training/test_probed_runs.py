"""What probing leaves in the log, under fixed and curvature schedules."""

import warnings

import numpy as np
import pytest
import torch
from training_runs import StopAt, folder

from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem
from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.recipe.targets import load_target
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.loop import train
from homotopy_cli.zoo.registry import build_data


def run(tmp_path, *sets, **settings):
    recipe = folder(tmp_path, **settings)
    result = train(load_recipe(recipe, sets), tmp_path / "out" / "run.h5")
    return recipe, result, read_log(tmp_path / "out" / "run.h5")


def dense_hessian(recipe):
    """λ_max and ‖g‖ of step 0's batch by torch.func, which shares no code with the probe."""
    torch.manual_seed(1)
    model = load_target("model.py:build", recipe.parent)().double()
    x, y = build_data("data.npz", recipe.parent).batch(0, 16, 1)
    shapes = {n: p.shape for n, p in model.named_parameters()}
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def loss(theta):
        pieces = theta.split([s.numel() for s in shapes.values()])
        params = {n: p.view(s) for (n, s), p in zip(shapes.items(), pieces, strict=True)}
        out = torch.func.functional_call(model, params, (x.double(),))
        return torch.nn.functional.cross_entropy(out, y)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, about torch.jit.script
        return torch.func.hessian(loss)(flat), torch.func.grad(loss)(flat)


@pytest.mark.parametrize("scheduler", ["constant", "homotopy"])
def test_the_probe_of_step_0_agrees_with_the_dense_hessian(tmp_path, scheduler):
    sets = ("curvature.probe_fraction=1.0", "curvature.budget=0")
    recipe, _, log = run(tmp_path, *sets, scheduler=scheduler)
    hessian, grad = dense_hessian(recipe)
    values = torch.linalg.eigvalsh(hessian)
    assert log.steps["grad_norm"][0] == pytest.approx(grad.norm().item(), rel=1e-5)
    # few Lanczos steps: an eigenvalue lies within the residual, and never above the largest
    found, residual = log.probes["lambda_max"][0], log.probes["residual"][0]
    assert (values - found).abs().min() <= residual + 1e-6


def test_edge_ratio_is_lr_times_sharpness_over_two_for_sgd(tmp_path):
    _, _, log = run(tmp_path, scheduler="{name: cosine}")
    rates = log.steps["lr"][log.probe_step]
    expected = rates * log.probes["lambda_max"] / 2
    np.testing.assert_allclose(log.probes["edge_ratio"], expected, rtol=1e-12)


def test_per_layer_columns_follow_the_partition(tmp_path):
    recipe, result, log = run(tmp_path, optimizer="{name: adamw, lr: 1e-2}", scheduler="homotopy")
    model = load_target("model.py:build", recipe.parent)()
    data = build_data("data.npz", recipe.parent)
    problem = Problem.from_module(model, "cross_entropy", [data.batch(0, 16, 1)])
    assert log.layers == tuple(b.name for b in Partition.by_module(problem).blocks) == ("0", "2")
    assert log.layer_numel.tolist() == [48, 27] and log.layer_kind == ("Linear", "Linear")
    assert result.n_params == 75
    probed = np.isfinite(log.probes["n_hvp"])  # the other rows are snapshots beside evaluations
    steps = log.probe_step[probed]
    norms = log.layer_values["layer_grad_norm"][probed]
    whole = log.steps["grad_norm"][steps]
    np.testing.assert_allclose((norms.astype("f8") ** 2).sum(1), whole**2, rtol=1e-5)
    rates = log.layer_values["layer_lr"][probed]
    np.testing.assert_allclose(rates, np.repeat(log.steps["lr"][steps, None], 2, 1), rtol=1e-6)
    assert np.isfinite(log.layer_values["layer_lambda_max"][probed][0]).all()


ONCE = """\
import torch, torch.nn as nn
class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g.clone()
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 3)
    def forward(self, x):
        return {output}
def build():
    return Net()
def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])
"""


def fixed_schedule(path, output):
    """A run under a fixed schedule of a linear model with some output."""
    recipe = folder(path, freq=2)
    (path / "model.py").write_text(ONCE.format(output=output))
    result = train(load_recipe(recipe), path / "run.h5")
    assert result.status == "finished" and result.final_loss < result.tally.first_loss
    return read_log(path / "run.h5")


def test_without_a_second_derivative_the_probes_are_differences(tmp_path):
    """A custom backward that itself cannot be differentiated, beside the same without it."""
    once = fixed_schedule(tmp_path / "once", "Once.apply(self.a(x))")
    plain = fixed_schedule(tmp_path / "plain", "self.a(x)")
    np.testing.assert_array_equal(once.steps["loss"], plain.steps["loss"])
    np.testing.assert_array_equal(once.probe_step, plain.probe_step)
    np.testing.assert_allclose(once.probes["lambda_max"], plain.probes["lambda_max"], rtol=1e-3)
    assert np.isfinite(once.probes["lambda_max"]).sum() >= 6
    assert not {"PROBE_OFF", "PROBE_FAILED"} & {e.code for e in once.events}


def test_a_model_that_cannot_be_measured_trains_on_without(tmp_path):
    """It trains on whole batches only, and a probe gives it a slice."""
    log = fixed_schedule(tmp_path, "self.a(x.view(16, 5) if torch.is_grad_enabled() else x)")
    assert not np.isfinite(log.probes["n_hvp"]).any()
    (event,) = [e for e in log.events if e.code == "PROBE_OFF"]
    assert event.message.startswith("curvature cannot be measured here, training goes on without: ")


def test_passive_probes_respect_the_budget_in_gradient_equivalents(tmp_path):
    """curvature.budget of 400 steps, plus the guaranteed probes of the start."""
    _, result, log = run(tmp_path, "curvature.budget=0.02", steps=400)
    spent = log.probes["gradient_equivalents"]
    assert np.nansum(spent) <= 0.02 * 400 + 20
    assert result.tally.n_probes == np.isfinite(spent).sum() >= 6


ALL = ("homotopy", "adaptive_homotopy", "per_layer_homotopy", "curvature_warmup")


@pytest.mark.parametrize("name", [*ALL, "curvature_adaptive"])
def test_every_curvature_scheduler_trains_from_a_recipe_and_resumes(tmp_path, name):
    scheduler = f"{{name: {name}, inner: {{name: cosine, final: 0.1}}}}"
    recipe = folder(tmp_path, optimizer="{name: adamw, lr: 1e-2}", scheduler=scheduler, steps=24)
    whole, parts = tmp_path / "whole" / "run.h5", tmp_path / "parts" / "run.h5"
    result = train(load_recipe(recipe), whole)
    assert result.status == "finished" and result.tally.n_probes > 0
    log = read_log(whole)
    assert (log.steps["lr"] <= log.steps["schedule_lr"] * (1 + 1e-9)).all()
    rates = log.layer_values["layer_lr"]
    assert (abs(rates[:, 0] - rates[:, 1]) > 0.0).any() == (name == "per_layer_homotopy")
    train(load_recipe(recipe), parts, observer=StopAt(9))
    train(load_recipe(recipe), parts, resume=True)
    a, b = (torch.load(p.with_suffix(".pt"), weights_only=True)["model"] for p in (whole, parts))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_clipping_by_curvature_uses_the_newest_kappa(tmp_path):
    _, _, log = run(tmp_path, more="clip: {name: curvature_aware, max_norm: 0.2}")
    for step in range(20):
        known = log.probes["kappa"][log.probe_step < step]
        limit = 0.2 / (1 + (known[-1] if len(known) else 0.0) / 1e4)
        coef = min(1.0, limit / (log.steps["grad_norm"][step] + 1e-6))
        assert log.steps["clip_coef"][step] == pytest.approx(coef, rel=1e-12)
