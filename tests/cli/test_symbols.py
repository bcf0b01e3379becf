"""The matrix that was measured stands in every row, and every number has its error."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from oracles import dense
from torch import nn

from homotopy_cli.cli.app import run
from homotopy_cli.curvature.api import probe
from homotopy_cli.curvature.kappa import kappa_error, norm_error
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem
from homotopy_cli.records import CurvatureEstimate, Eigenvalue, HvpCost

MODEL = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))

def total(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")

def fixed(model, batch):
    return nn.functional.cross_entropy(model(batch[0].float()), batch[1])

summed = nn.CrossEntropyLoss(reduction="sum")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("symbols")
    (folder / "model.py").write_text(MODEL)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = torch.randn(24, 5), torch.randint(3, (24,))
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, folder / "ckpt.pt")
    torch.save((x, y), folder / "batch.pt")
    torch.save((x[:8], y[:8]), folder / "a.pt")
    torch.save((x[8:], y[8:]), folder / "b.pt")
    return folder


@pytest.fixture
def said(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)

    def probed(*options, loss="cross_entropy", batches=("batch.pt",)):
        given = [word for name in batches for word in ("--batch", name)]
        argv = ["probe", "ckpt.pt", "--model", "model.py:build", "--loss", loss, *given]
        assert run([*argv, "--quiet", "--json", "out.json", *options]) == 0
        return capsys.readouterr().out, json.loads(Path("out.json").read_text())

    return probed


def exact_loss(model, batch):
    """The oracle's objective at the float32 weights, in float64."""
    rows = [(batch[0].double(), batch[1])]
    return dense.objective(copy.deepcopy(model).double(), cross_entropy, rows, [len(batch[0])])


def cross_entropy(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("curvature", "rows", "absent"),
    [
        ("hessian", ["λ_max (sharpness) ", "λ_min ", "‖H‖₂ ", "κ = ‖H‖₂/‖g‖² ", "‖H_bb‖₂"], "‖G"),
        ("ggn", ["λ_max(G) ", "λ_min(G) ", "‖G‖₂ ", "‖G‖_F ", "trace(G) ", "κ = ‖G‖₂/‖g‖² "], "‖H"),
        ("ggn", ["λ_max(P⁻¹G) ", "‖G_bb‖₂", "the full Gauss-Newton matrix (float64)"], "P⁻¹H"),
        (
            "preconditioned",
            ["λ_max(P⁻¹H) ", "λ_min(M) ", "‖M‖₂ ", "κ = ‖M‖₂/‖P^-1/2 g‖² ", "‖M_bb‖₂"],
            "‖H",
        ),
    ],
)
def test_rows_name_the_matrix_that_was_measured(said, curvature, rows, absent):
    text, _ = said("--curvature", curvature, "--validate")
    for row in rows:
        assert row in text, row
    assert absent not in text and ("(sharpness)" in text) == (curvature == "hessian")


def test_every_number_has_an_error_and_it_is_in_the_document(said):
    text, found = said()
    for row in ("‖H‖₂", "‖g‖", "κ = ‖H‖₂/‖g‖²", "1/(2κ)"):
        assert re.search(rf"^ +{re.escape(row)} +[\d.e+-]+ +± [\d.e+-]+ ", text, re.M), row
    assert found["hessian_norm_error"] == pytest.approx(found["lambda_max"]["residual"])
    parts = found["hessian_norm_error"] / found["hessian_norm"]
    parts += 2.0 * found["grad_norm_error"] / found["grad_norm"]
    assert found["kappa_error"] == pytest.approx(parts * found["kappa"])
    assert all(row["kappa_error"] > 0.0 for row in found["layers"])


def test_rows_of_a_comparison_that_rest_on_norms_know_their_errors(said):
    _, found = said("--compare", "ckpt.pt")
    known = {row["quantity"]: row["distinct"] for row in found["comparison"]}
    assert all(known[name] is False for name in ("grad_norm", "hessian_norm", "kappa"))


@pytest.mark.parametrize(
    ("low", "residual", "error"), [(-2.0, 0.5, 0.01), (-9.9, 0.5, 0.4), (-11.0, 0.5, 0.5)]
)
def test_the_other_end_counts_where_it_may_be_the_larger(low, residual, error):
    high, low = Eigenvalue(10.0, 0.01, True), Eigenvalue(low, residual, True)
    size = max(10.0, -low.value)
    cost = HvpCost("double_backward", "", 1, 1.0, 0.0)
    found = CurvatureEstimate(1, 1, 0.0, 1.0, high, low, (), size, size, "", cost)
    assert norm_error(found) == pytest.approx(error)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [0.3, 4.0])
def test_stated_errors_of_float32_cover_the_float64_values(seed, scale):
    """Oracle: the dense float64 Hessian and gradient, rounding included."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    batch = (torch.randn(40, 7), torch.randint(4, (40,)))
    problem = Problem.from_module(model, "cross_entropy", [batch])
    found = probe(problem, Partition.by_module(problem))
    f, theta = exact_loss(model, batch)
    size = torch.linalg.eigvalsh(dense.functorch_hessian(f, theta)).abs().max().item()
    length = dense.gradient(f, theta).norm().item()
    assert abs(found.hessian_norm - size) <= norm_error(found) < 1e-3 * size
    assert abs(found.grad_norm - length) <= found.grad_error < 1e-3 * length
    assert abs(found.kappa - size / length**2) <= kappa_error(found) < 1e-3 * found.kappa


def test_the_yardstick_is_float64_or_the_title_says_otherwise(said):
    text, found = said("--validate")
    assert "Validation against the full Hessian (float64)" in text
    assert {row["exact_dtype"] for row in found["validation"]} == {"float64"}
    top = next(row for row in found["validation"] if row["quantity"] == "lambda_max")
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    model.load_state_dict(torch.load("ckpt.pt")["model"])
    f, theta = exact_loss(model, torch.load("batch.pt"))
    exact = torch.linalg.eigvalsh(dense.functorch_hessian(f, theta))[-1].item()
    assert top["exact"] == pytest.approx(exact, rel=1e-12)
    text, found = said("--validate", loss="model.py:fixed")
    assert "(float32, as the estimate)" in text
    assert {row["exact_dtype"] for row in found["validation"]} == {"float32"}


def test_a_summed_loss_over_batches_is_the_sum_over_all_rows(said):
    whole, found = said("--quick", loss="model.py:summed")
    assert "loss model.py:summed, summed over 24 terms" in whole
    _, parts = said("--quick", loss="model.py:summed", batches=("a.pt", "b.pt"))
    _, mean = said("--quick")
    for one in (parts, {**mean, **{k: 24 * mean[k] for k in ("loss", "grad_norm")}}):
        assert one["loss"] == pytest.approx(found["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(found["grad_norm"], rel=1e-5)
    assert parts["lambda_max"]["value"] == pytest.approx(24 * mean["lambda_max"]["value"], rel=1e-2)
    _, cut = said("--quick", "--microbatch", "5", loss="model.py:summed")
    assert cut["loss"] == pytest.approx(found["loss"], rel=1e-5)


def test_the_noise_scale_of_a_summed_loss_is_that_of_its_mean(said):
    three = ("a.pt", "b.pt", "batch.pt")
    _, summed = said("--quick", "--noise", loss="model.py:summed", batches=three)
    _, mean = said("--quick", "--noise", batches=three)
    for name in ("trace_sigma", "grad_norm_squared"):
        pair = [x["noise"][name]["value"] for x in (summed, mean)]
        assert pair[0] == pytest.approx(pair[1], rel=1e-4)


def test_a_function_that_sums_over_rows_is_told_that_batches_were_averaged(said):
    words = "loss model.py:total seems to sum over rows: of the 2 batches' sums the mean was taken"
    assert words in said("--quick", loss="model.py:total", batches=("a.pt", "b.pt"))[0]
    assert "seems to sum" not in said("--quick", loss="model.py:total")[0]
    assert "seems to sum" not in said("--quick", loss="model.py:fixed", batches=("a.pt", "b.pt"))[0]
