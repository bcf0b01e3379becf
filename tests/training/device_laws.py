"""What must hold on every device; test_devices.py has the CPU, test_training_gpu.py CUDA."""

import json
import os
import subprocess
import sys

import numpy as np
import torch
from training_runs import StopAt, assert_same_rows, folder

from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.loop import train

SCHEDULERS = {
    "constant": "constant",
    "cosine": "{name: cosine, warmup: 3}",
    "homotopy": "{name: homotopy, inner: {name: cosine, warmup: 3}}",
    "auto": "{name: homotopy, mode: auto}",
    "watched": "{name: homotopy, signal: trust_ratio, inner: {name: cosine, warmup: 3}}",
    "adaptive": "adaptive_homotopy",
    "per_layer": "per_layer_homotopy",
    "warmup": "curvature_warmup",
    "curvature_adaptive": "curvature_adaptive",
}
MODES = {
    "bf16": ["amp=bf16"],
    "compile": ["compile.backend=aot_eager"],
    "recompute": ["activation_checkpointing=true"],
    "parts": ["accumulate=3"],
    "bf16 in parts, recomputed": ["amp=bf16", "accumulate=3", "activation_checkpointing=true"],
}


def law_trains_and_probes(path, device, scheduler, *, more=(), optimizer="{name: adamw, lr: 1e-2}"):
    """Twenty steps lower the loss, with finite rows and at least one probe in the log."""
    recipe = folder(
        path, model="build_with_state", scheduler=scheduler, optimizer=optimizer, eval_every=8
    )
    result = train(load_recipe(recipe, [f"device={device}", *more]), path / "run.h5")
    assert (result.status, result.step, result.warnings) == ("finished", 20, ())
    log = read_log(path / "run.h5")
    assert np.isfinite(log.steps["loss"]).all() and np.isfinite(log.steps["update_norm"]).all()
    assert np.isfinite(log.probes["hessian_norm"]).any()
    assert np.isfinite(log.layer_values["layer_grad_norm"]).any()
    assert len(log.eval_step) >= 3 and log.evals["eval_loss"][-1] < log.evals["eval_loss"][0]
    assert not [e for e in log.events if e.code in ("PROBE_FAILED", "PROBE_OFF", "SNAPSHOT_FAILED")]
    return result


def law_resumes_bitwise(path, device, scheduler, *, more=()):
    """Stopped after step 7 and resumed: the same file contents, the same rows."""
    recipe = folder(
        path,
        model="build_with_state",
        scheduler=scheduler,
        optimizer="{name: adamw, lr: 3e-2}",
        freq=3,
        eval_every=4,
        checkpoint_every=5,
    )
    loaded = load_recipe(recipe, [f"device={device}", *more])
    for name in ("whole", "parts"):
        (path / name).mkdir()
    train(loaded, path / "whole" / "run.h5")
    train(loaded, path / "parts" / "run.h5", observer=StopAt(7))
    assert train(loaded, path / "parts" / "run.h5", resume=True).status == "finished"
    kept = [torch.load(path / n / "run.pt", weights_only=True) for n in ("whole", "parts")]
    for name, tensor in kept[0]["model"].items():
        assert torch.equal(tensor, kept[1]["model"][name]), name
    assert kept[0]["scheduler"].keys() == kept[1]["scheduler"].keys()
    assert_same_rows(*(read_log(path / n / "run.h5") for n in ("whole", "parts")))


def law_checkpoint_is_probed_without_the_device(path, device, *, more=()):
    """A process that sees no GPU reads run.pt and measures it."""
    recipe = folder(path, scheduler="homotopy")
    settings = [f"device={device}", "model={name: mlp, hidden: [6]}", "loss=cross_entropy", *more]
    train(load_recipe(recipe, settings), path / "run.h5")
    for place, tensor in tensors(torch.load(path / "run.pt", weights_only=True)):
        assert tensor.device.type == "cpu", place
    command = [sys.executable, "-m", "homotopy_cli", "probe", str(path / "run.pt"), "--json", "-"]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=hidden, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["hessian_norm"] > 0 and found["n_params"] > 0


def tensors(value, place="run.pt"):
    """Every tensor of a checkpoint, with its place."""
    if isinstance(value, torch.Tensor):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from tensors(item, f"{place}[{index}]")
