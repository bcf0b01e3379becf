"""The recipe's `device`: what is refused, what is recorded, and the laws of every device, here."""

import json

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
from homotopy_cli.training.check import check
from homotopy_cli.training.checkpoint import load_checkpoint, save_checkpoint
from homotopy_cli.training.devices import on_device, resolve_device
from homotopy_cli.training.loop import train


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_trains_and_probes(tmp_path, name):
    law_trains_and_probes(tmp_path, "cpu", SCHEDULERS[name])


@pytest.mark.parametrize("name", ["per_layer", "auto"])
def test_a_resumed_run_is_the_same_bits(tmp_path, name):
    law_resumes_bitwise(tmp_path, "cpu", SCHEDULERS[name])


@pytest.mark.parametrize("name", MODES)
def test_every_way_to_run_a_step_trains_and_resumes(tmp_path, name):
    """With dropout and batch norm; the second law stops and goes on, bit for bit."""
    law_trains_and_probes(tmp_path / "a", "cpu", "homotopy", more=MODES[name])
    law_resumes_bitwise(tmp_path / "b", "cpu", "homotopy", more=MODES[name])


@pytest.mark.parametrize("name", MODES)
def test_check_makes_its_step_in_the_same_way(tmp_path, name):
    recipe = folder(tmp_path)
    plain = check(load_recipe(recipe), tmp_path / "run.h5")
    report = check(load_recipe(recipe, MODES[name]), tmp_path / "run.h5")
    assert report.loss == pytest.approx(plain.loss, rel=0.01 if "bf16" in name else 1e-6)
    words = "the training forward pass runs in bf16; probes and evaluations in float32"
    assert report.notes == ((words,) if "bf16" in name else ())
    assert (report.grad_norm == plain.grad_norm) == (name in ("compile", "recompute"))
    assert not (tmp_path / "run.h5").exists()


def test_the_checkpoint_is_read_anywhere(tmp_path):
    law_checkpoint_is_probed_without_the_device(tmp_path, "cpu")


def test_a_device_that_is_not_here_is_one_line_with_a_hint(tmp_path):
    name = f"cuda:{max(7, torch.cuda.device_count())}"
    recipe = folder(tmp_path)
    with pytest.raises(RecipeError, match=f"device: {name} is not here: torch ") as caught:
        train(load_recipe(recipe, [f"device={name}"]), tmp_path / "run.h5")
    assert caught.value.hint.startswith("--set device=")
    assert not (tmp_path / "run.h5").exists()


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("gpu", "did you mean 'cuda'?"),
        ("cuda:x", "did you mean 'cuda'?"),
        ("xla:0", "cpu, cuda, cuda:1"),
    ],
)
def test_an_unknown_device_is_a_fault_of_the_recipe(tmp_path, word, hint):
    recipe = folder(tmp_path)
    with pytest.raises(RecipeError, match=f"device={word}: '{word}' is not a device") as caught:
        load_recipe(recipe, [f"device={word}"])
    assert caught.value.hint.startswith(hint)


def test_the_device_without_float64_refuses_it(tmp_path):
    with pytest.raises(RecipeError, match="dtype=float64: mps has no float64"):
        load_recipe(folder(tmp_path), ["device=mps", "dtype=float64"])


def test_auto_is_the_cpu_where_there_is_no_gpu():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected


def test_a_batch_moves_whole_and_stays_itself_on_the_cpu():
    batch = {"x": (torch.ones(2), [torch.zeros(3)]), "name": "kept"}
    assert on_device(batch, torch.device("cpu")) is batch
    moved = on_device(batch, torch.device("meta"))
    assert moved["x"][0].is_meta and moved["x"][1][0].is_meta and moved["name"] == "kept"


def test_going_on_elsewhere_is_recorded(tmp_path):
    """A run.pt that says it was trained on a GPU, resumed on this CPU."""
    recipe = folder(tmp_path)
    train(load_recipe(recipe), tmp_path / "run.h5", observer=StopAt(7))
    content = load_checkpoint(tmp_path / "run.pt")
    content["environment"]["device"] = "cuda"
    content["recipe"] = json.dumps({**json.loads(content["recipe"]), "device": "cuda:1"})
    content["rng"]["cuda"] = [torch.zeros(16, dtype=torch.uint8)]
    save_checkpoint(tmp_path / "run.pt", content)
    result = train(load_recipe(recipe), tmp_path / "run.h5", resume=True)
    assert result.status == "finished"
    said = {e.code: e.message for e in read_log(tmp_path / "run.h5").events}
    assert said["ENVIRONMENT_CHANGED"] == "device cuda -> cpu"
    assert said["RECIPE_CHANGED"] == 'device: "cuda:1" -> "cpu"'
