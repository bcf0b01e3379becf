"""What a probe prints about a foreign checkpoint, in words that fit the numbers."""

import re
import textwrap
from pathlib import Path

import pytest
import torch
from foreign_checkpoints import save, state
from safetensors.torch import save_file

from homotopy_cli.cli.app import run

MODEL = """
    import torch
    from torch import nn

    def build():
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))

    def of_outputs(outputs, targets):
        return nn.functional.mse_loss(outputs, targets)

    def unnamed(a, b):
        return nn.functional.mse_loss(a, b)
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


def test_a_loss_of_outputs_and_targets_is_recognised_by_its_names(folder, capsys):
    shown = []
    for loss in ("mse", "model.py:of_outputs"):
        assert probe("--loss", loss, "--batch", "two.pt") == 0
        shown.append(re.search(r"Loss [\d.]+", capsys.readouterr().out)[0])
    assert shown[0] == shown[1]


def test_one_whose_names_say_nothing_is_told_how_it_is_called(folder, capsys):
    assert probe("--loss", "model.py:unnamed", "--batch", "two.pt") == 2
    error = capsys.readouterr().err
    assert "two.pt: the loss cannot take this batch (float32 [2, 5], float32 [2, 3]): " in error
    assert "a loss of your own is loss(model, batch), or loss(outputs, targets) by these" in error


@pytest.mark.parametrize(
    ("option", "value", "words", "next_step"),
    [
        ("rtol", "2", "--rtol 2: does not lie between 0 and 1", "write --rtol 1e-3"),
        ("rtol", "-1", "--rtol -1: does not lie between 0 and 1", "write --rtol 1e-3"),
        ("rtol", "nan", "--rtol nan: does not lie between 0 and 1", "write --rtol 1e-3"),
        ("lr", "inf", "--lr inf: not a finite rate", "write --lr 3e-3"),
        ("budget", "0", "--budget 0: not a time", "write --budget 60s or 5m"),
        ("max-memory", "nan", "--max-memory nan: not a size", "write --max-memory 2GiB"),
        ("seed", str(10**22), "Invalid value for '--seed'", "homotopy probe --help"),
        ("top-k", "0", "Invalid value for '--top-k'", "homotopy probe --help"),
        ("max-hvp", "0", "Invalid value for '--max-hvp'", "homotopy probe --help"),
        ("microbatch", "-3", "Invalid value for '--microbatch'", "homotopy probe --help"),
        ("validate-limit", "0", "Invalid value for '--validate-limit'", "homotopy probe --help"),
    ],
)
def test_a_number_out_of_range_is_a_usage_error(folder, capsys, option, value, words, next_step):
    assert probe("--loss", "mse", "--batch", "one.pt", f"--{option}", value, "--out", "log.h5") == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {words}") and hint == f"hint:  {next_step}"
    assert not Path("log.h5").exists()


def test_a_validation_above_its_limit_is_refused_before_the_cost_is_predicted(folder, capsys):
    options = ("--loss", "mse", "--batch", "one.pt", "--validate", "--validate-limit", "74")
    assert probe(*options, "--out", "log.h5") == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: the full Hessian of 75 parameters is above the limit of 74 (")
    assert hint.startswith("hint:  raise it with --validate-limit 75 ")
    assert not Path("log.h5").exists()


def test_more_eigenvalues_than_parameters_are_no_more_products(folder, capsys):
    options = ("--loss", "mse", "--batch", "one.pt", "--dry-run", "--top-k")
    run(["probe", "ckpt.pt", "--model", "model.py:build", *options, "75"])
    most = capsys.readouterr().out.split("about")[1].split("products")[0]
    run(["probe", "ckpt.pt", "--model", "model.py:build", *options, "1000000"])
    assert capsys.readouterr().out.split("about")[1].split("products")[0] == most


def test_a_command_without_a_batch_is_shown_completed(folder, capsys):
    assert probe("--layers", "a b|c") == 2
    own = "homotopy probe ckpt.pt --model model.py:build --quick --quiet --layers 'a b|c'"
    hint = capsys.readouterr().err.splitlines()[-1]
    options = "--loss model.py:loss --batch batch.pt"
    assert hint == f"hint:  {own} {options} (or --recipe recipes/YOURS.yaml)"
    assert run(["probe", "ckpt.pt"]) == 2
    hint = capsys.readouterr().err.splitlines()[-1]
    assert hint.startswith("hint:  homotopy probe ckpt.pt --model model.py:build --loss model.py:")


@pytest.mark.parametrize("tokens", [False, True])
def test_a_transformers_folder_is_sent_to_a_text_only_with_its_tokenizer(folder, capsys, tokens):
    Path("hf").mkdir()
    Path("hf/config.json").write_text(
        '{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}'
    )
    save_file(state(), "hf/model.safetensors")
    if tokens:
        Path("hf/tokenizer.json").write_text("{}")
    assert run(["probe", "hf"]) == 2
    hint = capsys.readouterr().err.splitlines()[-1]
    named = "--text FILE.txt" if tokens else "--batch tokens.pt --loss next_token"
    assert hint.startswith(f"hint:  homotopy probe hf {named} ")


def test_what_rests_on_an_end_that_did_not_converge_says_so(folder, capsys):
    what = ["ckpt.pt", "--model", "model.py:build", "--loss", "mse", "--batch", "two.pt"]
    effort = ["--max-hvp", "1", "--layers", "none", "--no-density", "--no-trace"]
    code = run(["probe", *what, *effort])
    text = capsys.readouterr().out
    assert code == 0
    for row in ("λ_max", "‖H‖₂", "κ = ‖H‖₂/‖g‖²", "1/(2κ)"):
        (line,) = [x for x in text.splitlines() if x.strip().startswith(row + " ") and "±" in x]
        assert line.rstrip().endswith("not converged")
    assert "Sharpness λ_max ≥ " in text
    assert "the ends may lie further out" in " ".join(text.split())
