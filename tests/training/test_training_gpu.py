"""Training on a CUDA device: the laws of device_laws.py, and what only a GPU can show."""

import warnings

import pytest
import torch
from device_laws import (
    MODES,
    SCHEDULERS,
    law_checkpoint_is_probed_without_the_device,
    law_resumes_bitwise,
    law_trains_and_probes,
)
from training_runs import StopAt, folder

from homotopy_cli.errors import RecipeError
from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.build import build_run
from homotopy_cli.training.loop import train
from homotopy_cli.training.step import optimizer_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_trains_and_probes(tmp_path, name):
    law_trains_and_probes(tmp_path, "cuda", SCHEDULERS[name])


@pytest.mark.parametrize("name", ["constant", "homotopy", "per_layer", "auto", "watched"])
def test_a_resumed_run_is_the_same_bits(tmp_path, name):
    """Dropout draws from the device's generator; warm vectors come back from the file."""
    law_resumes_bitwise(tmp_path, "cuda", SCHEDULERS[name])


@pytest.mark.parametrize("name", MODES)
def test_every_way_to_run_a_step_trains_and_resumes(tmp_path, name):
    """With dropout and batch norm; the second law stops and goes on, bit for bit."""
    law_trains_and_probes(tmp_path / "a", "cuda", "homotopy", more=MODES[name])
    law_resumes_bitwise(tmp_path / "b", "cuda", "homotopy", more=MODES[name])


def test_the_checkpoint_is_probed_on_a_machine_without_gpu(tmp_path):
    law_checkpoint_is_probed_without_the_device(tmp_path, "cuda")


def test_the_first_steps_are_the_cpus(tmp_path):
    """The same initial weights and batches; float64 rounding apart, the same trajectory."""
    recipe = folder(tmp_path, scheduler="homotopy", optimizer="{name: adamw, lr: 1e-2}")
    rows = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device / "run.h5"
        train(load_recipe(recipe, [f"device={device}", "dtype=float64"]), out)
        rows[device] = read_log(out)
    for name in ("loss", "grad_norm", "update_norm", "lr"):
        here, there = (rows[d].steps[name] for d in ("cpu", "cuda"))
        assert there == pytest.approx(here, rel=1e-6), name
    here, there = (rows[d].probes["lambda_max"] for d in ("cpu", "cuda"))
    assert there == pytest.approx(here, rel=1e-3, nan_ok=True)


def test_everything_lies_on_the_device(tmp_path):
    run = build_run(load_recipe(folder(tmp_path, model="build_with_state"), ["device=cuda"]))
    assert optimizer_step(run, 0).fault == ""
    held = [*run.model.state_dict().values(), *run.batch(1), *run.eval_batches[0]]
    assert {t.device.type for t in held} == {"cuda"}


@pytest.mark.parametrize(("first", "second"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_going_on_elsewhere_works_and_is_recorded(tmp_path, first, second):
    recipe = folder(tmp_path, scheduler="homotopy", optimizer="{name: adamw, lr: 1e-2}")
    train(load_recipe(recipe, [f"device={first}"]), tmp_path / "run.h5", observer=StopAt(7))
    result = train(load_recipe(recipe, [f"device={second}"]), tmp_path / "run.h5", resume=True)
    assert (result.status, result.step) == ("finished", 20)
    said = [e.message for e in read_log(tmp_path / "run.h5").events if e.code.startswith("ENV")]
    assert f"device {first} -> {second}" in said


def test_a_second_gpu_that_is_not_there_is_refused(tmp_path):
    n = torch.cuda.device_count()
    with pytest.raises(RecipeError, match=f"device: cuda:{n} is not here: torch sees cuda:0"):
        build_run(load_recipe(folder(tmp_path), [f"device=cuda:{n}"]))


def test_a_step_waits_for_the_device_three_times(tmp_path):
    """Loss and gradient norm come over together; after the step the update's norm and the signs."""
    recipe = folder(tmp_path, freq=0, optimizer="{name: adamw, lr: 1e-2}")
    run = build_run(load_recipe(recipe, ["device=cuda", "clip={max_norm: 1.0}"]))
    optimizer_step(run, 0)
    batch = run.batch(1)
    run.batch = lambda step: batch  # copying a batch from pageable memory waits, too
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")  # the mode warns of itself, too: it is a prototype
        torch.cuda.set_sync_debug_mode("warn")
        try:
            optimizer_step(run, 1)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert 1 <= len([w for w in waits if "called a synchronizing" in str(w.message)]) <= 3


@pytest.mark.filterwarnings("ignore")  # the compiler's own, on float32 matrix products
def test_inductor_gives_the_plain_run(tmp_path):
    """torch.compile's own kernels, in float64, on a model without dropout."""
    recipe = folder(tmp_path)
    rows = {}
    for name, more in (("plain", []), ("compiled", ["compile=true"])):
        out = tmp_path / name / "run.h5"
        train(load_recipe(recipe, ["device=cuda", "dtype=float64", *more]), out)
        rows[name] = read_log(out)
    for column in ("loss", "grad_norm"):
        here, there = (rows[n].steps[column] for n in ("plain", "compiled"))
        assert there == pytest.approx(here, rel=1e-8), column


def test_recomputed_activations_save_memory_on_the_device(tmp_path):
    """Peak memory of one pass of a deep MLP: kept blocks against recomputed ones."""
    from homotopy_cli.problems.criteria import NAMES
    from homotopy_cli.training.forward import Forward, backward

    peaks = []
    for recompute in (False, True):
        torch.manual_seed(0)
        block = [
            torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64))
            for _ in range(16)
        ]
        net = torch.nn.Sequential(*block).cuda()
        batch = torch.randn(4096, 64, device="cuda"), torch.randn(4096, 64, device="cuda")
        forward = Forward(net, NAMES["mse"], torch.device("cuda"), recompute=recompute)
        backward(forward, batch)
        torch.cuda.reset_peak_memory_stats()
        backward(forward, batch)
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < 0.5 * peaks[0]
