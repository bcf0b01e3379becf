"""A loss that is not finite: the batch is looked at before the learning rate."""

import pytest
import torch
from training_runs import folder

from homotopy_cli.errors import NonFiniteError
from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.check import check
from homotopy_cli.training.loop import train
from homotopy_cli.training.spoilt import spoilt
from homotopy_cli.training.summary import advice

NAN, INF = float("nan"), float("inf")
DATA = """
import random, torch
from torch.utils.data import Dataset
class Noisy(Dataset):
    def __init__(self, bad=()):
        self.x = torch.randn(120, 5, generator=torch.Generator().manual_seed(0))
        self.x[list(bad), 2] = float("nan")
    def __len__(self):
        return len(self.x)
    def __getitem__(self, i):
        return self.x[i] + 0.1 * torch.randn(5) + 0.1 * random.random(), int(self.x[i, 0] > 0)
def clean(): return Noisy(), Noisy()
def spoilt(): return Noisy(range(0, 120, 40)), Noisy()
def all_spoilt(): return Noisy(range(120)), Noisy()
def held_out_spoilt(): return Noisy(), Noisy(range(120))
"""


@pytest.fixture
def recipe(tmp_path):
    made = folder(tmp_path, model="build_with_state", steps=12, freq=0)
    (tmp_path / "data.py").write_text(DATA)
    return made


@pytest.mark.parametrize(
    "batch, words",
    [
        ((torch.tensor([1.0, NAN]), torch.tensor([1, 2])), "1 NaN in x"),
        ((torch.ones(2), torch.tensor([INF, NAN, -INF])), "1 NaN and 2 infinite values in y"),
        ({"labels": torch.tensor([INF]), "n": 3}, "1 infinite value in labels"),
        (torch.tensor([NAN]), "1 NaN in it"),
        ((torch.ones(3), torch.arange(3)), ""),
    ],
)
def test_what_is_wrong_with_a_batch_is_counted(batch, words):
    assert spoilt(batch) == words


def test_a_step_s_batch_is_named_and_no_rate_is_blamed(recipe, tmp_path):
    loaded = load_recipe(recipe, ("data=data.py:spoilt",))
    result = train(loaded, tmp_path / "run.h5")
    assert (result.status, result.exit_code) == ("diverged", 3)
    words = f"loss is nan: the batch of step {result.step} holds 1 NaN in x"
    assert result.fault == f"step {result.step}: {words}"
    assert advice(result) == "remove or repair those rows of the data: no learning rate helps"
    event = next(e for e in read_log(tmp_path / "run.h5").events if e.code == "DIVERGED")
    assert event.message == words


@pytest.mark.parametrize(
    "name, words",
    [
        ("all_spoilt", "step 0: loss is nan: its batch holds 16 NaN in x"),
        ("held_out_spoilt", "held-out loss is nan: the first held-out batch holds 16 NaN in x"),
    ],
)
def test_check_looks_at_the_data_too(recipe, tmp_path, name, words):
    with pytest.raises(NonFiniteError) as caught:
        check(load_recipe(recipe, (f"data=data.py:{name}",)), tmp_path / "run.h5")
    assert caught.value.message == words


def test_a_dataset_with_random_examples_resumes_bit_for_bit(recipe, tmp_path):
    loaded = load_recipe(recipe, ("data=data.py:clean",))
    train(loaded, tmp_path / "whole.h5")
    first = load_recipe(recipe, ("data=data.py:clean", "steps=5"))
    train(first, tmp_path / "parts.h5")
    train(loaded, tmp_path / "parts.h5", resume=True)
    whole, parts = (torch.load(tmp_path / f"{n}.pt")["model"] for n in ("whole", "parts"))
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
    a, b = (read_log(tmp_path / f"{n}.h5").steps["loss"] for n in ("whole", "parts"))
    assert a.tolist() == b.tolist()


def test_a_mask_of_minus_infinity_is_no_fault():
    mask = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
    assert spoilt({"x": torch.zeros(2), "mask": mask}) == ""
    assert "mask" in spoilt({"mask": mask + 1.0})
