"""A recipe that names the user's own code: what may be returned, and what is said of mistakes."""

import re

import pytest
from commands import homotopy, is_two_lines

CODE = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
X = torch.randn(120, 6)
Y = (X @ torch.randn(6, 3)).argmax(1)
def build(width=8):
    return nn.Sequential(nn.Linear(6, width), nn.GELU(), nn.Linear(width, 3))
def pair():
    return X, Y
def other():
    return X + 1, Y
"""
RECIPE = """
model: mycode.py:build
data: mycode.py:pair
optimizer: {name: adamw, lr: 1e-2}
curvature: {freq: 0}
scheduler: constant
steps: 4
batch_size: 16
profiles:
  moved: {data: "mycode.py:other"}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mycode.py").write_text(CODE)
    (tmp_path / "base.yaml").write_text(RECIPE)
    return tmp_path


@pytest.mark.parametrize(
    "changes", [(), ("--set", "data=mycode.py:other"), ("--profile", "moved")], ids=str
)
def test_the_command_that_train_names_measures_the_problem_it_trained(folder, changes):
    train = ("train", "base.yaml", *changes, "--no-report", "-q", "--out", "runs/a.h5")
    done = homotopy(*train, cwd=folder)
    assert done.code == 0, done.err
    told = re.search(r"next +homotopy (probe .*)", done.out)[1].split()
    assert told == ["probe", "runs/a.pt", "--trust-code"]
    named = homotopy(*told, "--quick", "-q", cwd=folder)
    assert named.code == 0, named.err
    held_out = float(re.search(r"held out: loss ([\d.]+)", done.out)[1])
    assert abs(float(re.search(r"Loss ([\d.]+)", named.out)[1]) - held_out) < 1e-3
    # The recipe's file alone means that problem only where nothing was changed.
    refused = homotopy("probe", "runs/a.pt", cwd=folder)
    way = "--trust-code" if changes else "--recipe base.yaml"
    assert is_two_lines(refused) and f"homotopy probe runs/a.pt {way}" in refused.err
    by_file = homotopy("probe", "runs/a.pt", "--recipe", "base.yaml", "--quick", "-q", cwd=folder)
    assert by_file.code == 0, by_file.err
    warned = "data mycode.py:pair, trained with mycode.py:other" in " ".join(by_file.out.split())
    assert warned == bool(changes)


def test_a_run_says_at_once_which_loss_it_chose(folder):
    (folder / "mycode.py").write_text(
        CODE
        + "def loader(): return DataLoader(TensorDataset(X, Y), 5)\n"
        + "def some(params, lr): return torch.optim.SGD(params[:2], lr=lr)\n"
        + "def pixels(): return (X.abs() * 50).byte(), Y\n"
        + "def floats(): return X, X[:, :3]\n"
    )
    guessed = "note: loss guessed: the data's targets are whole numbers, 3 classes: cross_entropy"
    done = homotopy("train", "base.yaml", "--no-report", cwd=folder)
    assert done.code == 0 and done.err.splitlines()[0] == guessed
    quiet = homotopy("train", "base.yaml", "--no-report", "--overwrite", "-q", cwd=folder)
    assert quiet.code == 0 and quiet.err == ""
    sets = ["data=mycode.py:loader", "loss=cross_entropy", "optimizer.name=mycode.py:some"]
    check = homotopy("train", "base.yaml", "--check", *[f"--set={s}" for s in sets], cwd=folder)
    assert check.code == 0 and "loss guessed" not in check.out
    assert "note: data: of the DataLoader only dataset and collate_fn are used" in check.out
    assert "2 of 4 trainable tensors are in none of its groups" in check.out
    mse = homotopy("train", "base.yaml", "--check", "--set=data=mycode.py:floats", cwd=folder)
    assert mse.code == 0 and "loss guessed: the data's targets are floats: mse" in mse.out
    cast = homotopy("train", "base.yaml", "--set=data=mycode.py:pixels", "--out=p.h5", cwd=folder)
    assert cast.code == 2 and 'int64 given, float32 wanted (module "0", Linear)' in cast.err
    assert "x.float(), of pixels x.float() / 255" in cast.err
