"""What a probe prints about a foreign checkpoint, in words that fit the numbers."""

import textwrap

import pytest
import torch
from foreign_checkpoints import save, state

from homotopy_cli.cli.app import run

MODEL = """
    import torch
    from torch import nn

    def build():
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))

    def of_outputs(outputs, targets):
        return nn.functional.mse_loss(outputs, targets)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "model.py").write_text(textwrap.dedent(MODEL))
    save(tmp_path / "ckpt.pt", state())
    save(tmp_path / "one.pt", (torch.randn(1, 5), torch.zeros(1, 3)))
    save(tmp_path / "two.pt", (torch.randn(2, 5), torch.zeros(2, 3)))
    monkeypatch.chdir(tmp_path)


def probe(*options):
    return run(["probe", "ckpt.pt", "--model", "model.py:build", "--quick", "--quiet", *options])


@pytest.mark.parametrize(("batch", "words"), [("one", "1 row in 1"), ("two", "2 rows in 1")])
def test_one_row_is_no_rows(folder, capsys, batch, words):
    assert probe("--loss", "mse", "--batch", f"{batch}.pt") == 0
    assert f"loss mse over {words} batch; " in capsys.readouterr().out


def test_a_loss_of_outputs_and_targets_is_told_how_it_is_called(folder, capsys):
    assert probe("--loss", "model.py:of_outputs", "--batch", "two.pt") == 2
    error = capsys.readouterr().err
    assert "two.pt: the loss cannot take this batch (float32 [2, 5], float32 [2, 3]): " in error
    assert "a function of your own is called loss(model, batch); --debug shows where" in error
