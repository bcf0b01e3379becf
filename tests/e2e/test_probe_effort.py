"""How much a probe does and when it stops, as options of the real command."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from e2e.commands import homotopy

from homotopy_cli.cli.probing import size
from homotopy_cli.errors import HomotopyError

MODEL = """
import time
import torch
from torch import nn


def build(width: int = 12):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3))


def slow(model, batch):
    time.sleep(0.05)
    x, y = batch
    return nn.functional.cross_entropy(model(x), y)
"""
FOREIGN = ("--model", "model.py:build", "--loss", "cross_entropy", "--batch", "batch.pt")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 3))
    torch.save(model.state_dict(), tmp_path / "ckpt.pt")
    batch = torch.randn(48, 6), torch.randint(0, 3, (48,))
    torch.save(batch, tmp_path / "batch.pt")
    return tmp_path


def test_quick_measures_sharpness_and_kappa_and_little_else(folder):
    thorough = json.loads(homotopy("probe", "ckpt.pt", *FOREIGN, "--json", "-", cwd=folder).out)
    done = homotopy("probe", "ckpt.pt", *FOREIGN, "--quick", "--json", "-", cwd=folder)
    assert done.code == 0, done.err
    quick = json.loads(done.out)
    top = thorough["lambda_max"]["value"]
    assert abs(quick["lambda_max"]["value"] - top) <= quick["lambda_max"]["residual"] + 1e-6 * top
    assert quick["kappa"] == pytest.approx(thorough["kappa"], rel=1e-3)
    assert quick["layers"] == [] and quick["trace"] is None and quick["density"] is None
    assert quick["hvp"]["n_hvp"] < thorough["hvp"]["n_hvp"]
    assert thorough["checks"]["difference_error"] <= thorough["checks"]["difference_bound"]
    assert thorough["density"]["cdf_stderr"] == 0.0


def test_noise_sharpness_engine_and_memory_are_options(folder):
    done = homotopy(
        *("probe", "ckpt.pt", *FOREIGN, "--microbatch", "8", "--noise", "--no-checks"),
        *("--hvp", "forward_difference", "--ends", "max", "--trace-method", "hutch++"),
        *("--max-memory", "2MB", "--json", "found.json"),
        cwd=folder,
    )
    assert done.code == 0, done.err
    found = json.loads((folder / "found.json").read_text())
    assert found["noise"]["n_batches"] == 6 and found["noise"]["batch_sharpness"]["stderr"] > 0
    assert "Batch sharpness" in done.out
    assert found["checks"] is None and "Products tested" not in done.out
    assert found["hvp"]["method"] == "forward_difference"
    assert found["lambda_min"] is None and found["lambda_max"]["value"] > 0


def test_noise_of_one_batch_is_refused_with_the_way_out(folder):
    done = homotopy("probe", "ckpt.pt", *FOREIGN, "--noise", "--quick", cwd=folder)
    assert done.code == 2
    assert "error: gradient noise needs at least 3 batches, got 1" in done.err
    assert "--microbatch" in done.err


@pytest.mark.parametrize(
    ("text", "value"), [("2GiB", 2 * 2**30), ("500MB", 500_000_000), ("1.5k", 1500), ("64", 64)]
)
def test_sizes(text, value):
    assert size(text) == value


@pytest.mark.parametrize("text", ["2x", "", "GiB", "-1MB", "1.2.3MB", "0"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(HomotopyError, match="not a size") as caught:
        size(text)
    assert "2GiB" in caught.value.hint


def test_ctrl_c_gives_what_is_there(folder):
    command = [*FOREIGN[:3], "model.py:slow", *FOREIGN[4:], "--hvp", "central_difference"]
    process = subprocess.Popen(
        [sys.executable, "-m", "homotopy_cli", "probe", "ckpt.pt", *command, "--json", "-"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "Hessian-vector products" in process.stderr.readline()
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    found = json.loads(out)
    assert "stopping: what is measured so far follows" in err
    assert any("stopped early" in warning for warning in found["warnings"])
    assert found["converged"] is False and found["loss"] > 0
    assert {layer["state"] for layer in found["layers"]} == {"not_measured"}
