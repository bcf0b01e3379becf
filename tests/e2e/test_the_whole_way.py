"""The product's main job, by subprocess: train, then probe its checkpoint, then report its log."""

import json
import math

import numpy as np
import pytest
import torch
from e2e.commands import bytes_of, homotopy, is_two_lines

from homotopy_cli import read_log
from homotopy_cli.schedulers.ceiling import WILD

CONTRACT_KEYS = {
    *("schema_version", "checkpoint", "mode", "dtype", "hvp", "n_params", "n_examples", "loss"),
    *("grad_norm", "lambda_max", "lambda_min", "eigenvalues", "hessian_norm", "frobenius_norm"),
    *("trace", "kappa", "predicted_decrease", "density", "layers", "edges", "components"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The built-in quickstart in its small profile: a GPT on text that comes with Python."""
    folder = tmp_path_factory.mktemp("run")
    done = homotopy("train", "--profile", "small", cwd=folder)
    assert done.code == 0, done.err
    return folder, done


def test_train_says_where_everything_is_and_what_to_type_next(run):
    folder, done = run
    for name in ("run.h5", "run.pt", "run.html"):
        assert (folder / "runs/quickstart" / name).is_file()
        assert f"runs/quickstart/{name}" in done.out
    assert "homotopy probe runs/quickstart/run.pt" in done.out
    assert "homotopy report runs/quickstart/run.h5" in done.out
    assert "of the steps' time" in done.out


def test_the_loss_falls_below_the_entropy_of_single_characters(run):
    folder, _ = run
    log = read_log(folder / "runs/quickstart/run.h5")
    loss = log.steps["loss"]
    text = 3.25  # nats: unigram entropy of the text, printed by the run and tested in tests/zoo
    assert loss[0] > text > loss[-5:].mean()
    assert np.isfinite(log.probes["kappa"]).any()
    measured = np.isfinite(log.probes["edge_ratio"])
    edge, step = log.probes["edge_ratio"][measured], log.probe_step[measured]
    assert (edge[step <= WILD] <= 1.0 + 1e-9).all()  # the ceiling holds from the first step
    for beyond in np.flatnonzero(edge > 1.0 + 1e-9):  # later one reading alone is doubted
        assert step[beyond + 1] == step[beyond] + 1 and edge[beyond + 1] <= 1.0 + 1e-9
    assert len(log.spectra) >= 2 and abs(log.spectra[-1].weights.sum() - 1) < 1e-3
    assert np.nanmax(log.probes["attention_max_logit"]) > np.nanmin(log.probes["p_min"]) > 0


def test_the_checkpoint_is_plain_data(run):
    folder, _ = run
    state = torch.load(folder / "runs/quickstart/run.pt", weights_only=True)
    assert state["format"] == "homotopy-checkpoint"
    assert json.loads(state["recipe"])["model"]["name"] == "gpt"


def strict(text: str):
    """JSON without the NaN and Infinity tokens that Python's parser would let through."""

    def refuse(token):
        raise AssertionError(f"{token} in JSON")

    return json.loads(text, parse_constant=refuse)


def test_probe_needs_no_other_flag_and_prints_nothing_but_json(run):
    folder, _ = run
    before = bytes_of(folder)
    done = homotopy("probe", "runs/quickstart/run.pt", "--json", "-", cwd=folder)
    assert done.code == 0, done.err
    document = strict(done.out)
    assert set(document) >= CONTRACT_KEYS
    assert document["checkpoint"]["kind"] == "homotopy"
    assert document["lambda_max"]["converged"] and document["lambda_min"]["converged"]
    size = max(abs(document["lambda_max"]["value"]), abs(document["lambda_min"]["value"]))
    assert document["hessian_norm"] == pytest.approx(size, rel=1e-12)
    assert document["kappa"] == pytest.approx(size / document["grad_norm"] ** 2, rel=1e-6)
    assert document["edges"]["sgd"] == pytest.approx(2 / document["lambda_max"]["value"])
    assert document["edges"]["adam"] > 0
    squares = sum(layer["grad_norm"] ** 2 for layer in document["layers"])
    assert math.sqrt(squares) == pytest.approx(document["grad_norm"], rel=1e-5)
    assert bytes_of(folder) == before


def test_report_makes_the_same_bytes_twice(run):
    folder, _ = run
    pages = []
    for name in ("a.html", "b.html"):
        done = homotopy("report", "runs/quickstart/run.h5", "--out", name, cwd=folder)
        assert done.code == 0, done.err
        pages.append((folder / name).read_bytes())
    assert pages[0] == pages[1]
    assert b"<html" in pages[0] and b"http://" not in pages[0].replace(b"http://www.w3.org", b"")


def test_a_gate_that_fires_is_exit_1_with_all_outputs_written(run):
    folder, _ = run
    done = homotopy(
        *("report", "runs/quickstart/run.h5", "--out", "gate.html", "--markdown", "gate.md"),
        *("--json", "gate.json", "--junit", "gate.xml", "--fail-on", "final_loss > 0"),
        cwd=folder,
    )
    assert done.code == 1
    assert "final_loss > 0" in done.err
    for name in ("gate.html", "gate.md", "gate.json", "gate.xml"):
        assert (folder / name).stat().st_size > 0
    assert strict((folder / "gate.json").read_text())["passed"] is False


def test_a_gate_on_a_probe(run):
    folder, _ = run
    probe = ("probe", "runs/quickstart/run.pt", "--layers", "none", "--no-density", "--no-trace")
    fired = homotopy(*probe, "--fail-on", "lambda_max > 1e-9", cwd=folder)
    held = homotopy(*probe, "--fail-on", "lambda_max > 1e9", cwd=folder)
    assert (fired.code, held.code) == (1, 0), fired.err + held.err


def test_a_probe_can_be_a_log_and_a_page(run):
    folder, _ = run
    done = homotopy(
        *("probe", "runs/quickstart/run.pt", "--layers", "none", "--no-trace", "--no-density"),
        *("--out", "probe.h5", "--html", "probe.html"),
        cwd=folder,
    )
    assert done.code == 0, done.err
    log = read_log(folder / "probe.h5")
    assert len(log.probe_step) == 1
    assert log.probes["attention_entropy"][0] > 0 and log.probes["norm_sigma_min"][0] > 0
    assert homotopy("report", "probe.h5", "--out", "again.html", cwd=folder).code == 0


def test_a_dry_run_measures_nothing(run):
    folder, _ = run
    done = homotopy("probe", "runs/quickstart/run.pt", "--dry-run", "--json", "-", cwd=folder)
    assert done.code == 0, done.err
    document = strict(done.out)
    assert document["forecast"]["n_hvp"] > 0 and "lambda_max" not in document


def test_training_over_an_existing_run_is_refused(run):
    folder, _ = run
    before = bytes_of(folder)
    done = homotopy("train", "--profile", "small", cwd=folder)
    assert is_two_lines(done), done.err
    assert "run.h5" in done.err and "--overwrite" in done.err and "--resume" in done.err
    assert bytes_of(folder) == before


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["probe", "nothing.pt"], ["nothing.pt", "no such"]),
        (["report", "nothing.h5"], ["nothing.h5"]),
        (["train", "nothing.yaml"], ["nothing.yaml"]),
        (["probe", "run.pt", "--budget", "soon"], ["--budget soon"]),
        (["prob"], ["prob"]),
        (["report"], ["RUN.h5"]),
        (["probe", "run.pt", "--mode", "sleep"], ["sleep"]),
    ],
)
def test_usage_errors_are_two_lines(run, argv, words):
    folder, _ = run
    argv = [str(folder / "runs/quickstart/run.pt") if word == "run.pt" else word for word in argv]
    done = homotopy(*argv, cwd=folder)
    assert is_two_lines(done), done.err
    for word in words:
        assert word in done.err


def test_a_checkpoint_never_runs_code_by_itself_and_train_prints_the_command_that_may(tmp_path):
    (tmp_path / "model.py").write_text(
        "import torch.nn as nn\ndef build(): return nn.Sequential(nn.Linear(3, 2))\n"
    )
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.normal(size=(20, 3)).astype("f4"), y=np.arange(20) % 2)
    (tmp_path / "recipe.yaml").write_text(
        "model: model.py:build\ndata: data.npz\noptimizer: {name: sgd, lr: 0.1}\n"
        "steps: 3\nbatch_size: 8\nout: run.h5\n"
    )
    done = homotopy("train", "recipe.yaml", "--no-report", "-q", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "homotopy probe run.pt --trust-code" in done.out
    refused = homotopy("probe", "run.pt", cwd=tmp_path)
    assert is_two_lines(refused) and "model.py:build" in refused.err
    assert "homotopy probe run.pt --recipe recipe.yaml" in refused.err
    assert homotopy("probe", "run.pt", "--recipe", "recipe.yaml", cwd=tmp_path).code == 0
