"""What a probe says of learning rates, and of a second checkpoint, by the real command."""

import html
import json
import math

import pytest
import torch
from e2e.commands import homotopy, is_two_lines

from homotopy_cli.report.words import number, rate
from homotopy_cli.runlog.reader import read_log

MODEL = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
"""
FOREIGN = ("--model", "model.py:build", "--loss", "cross_entropy", "--batch", "batch.pt")


def trained(steps, folder, name):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    x, y = torch.load(folder / "batch.pt")
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rates")
    (folder / "model.py").write_text(MODEL)
    torch.manual_seed(1)
    torch.save((torch.randn(48, 6), torch.randint(0, 3, (48,))), folder / "batch.pt")
    trained(30, folder, "late.pt")
    trained(3, folder, "early.pt")
    return folder


@pytest.fixture(scope="module")
def found(folder):
    done = homotopy(
        *("probe", "late.pt", *FOREIGN, "--compare", "early.pt", "--lr-range"),
        *("--json", "found.json"),
        *("--fail-on", "lambda_max < 0", "--fail-on", "loss < baseline.loss"),
        cwd=folder,
    )
    return json.loads((folder / "found.json").read_text()), done


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ("lamda_max > 1", "did you mean 'lambda_max'?"),
        ("lambda_max > baseline.lambda_max", "add --compare OLD.pt"),
        ("lambda_max >", "not an expression"),
    ],
)
def test_a_gate_that_cannot_be_decided_is_refused_before_anything_is_measured(folder, gate, words):
    outputs = ("--json", "g.json", "--out", "g.h5", "--html", "g.html")
    done = homotopy("probe", "late.pt", *FOREIGN, *outputs, "--fail-on", gate, cwd=folder)
    assert is_two_lines(done) and words in done.err
    assert "products" not in done.err and not list(folder.glob("g.*"))


def test_every_name_of_a_document_may_be_gated(found, folder):
    """What is refused before a measurement must be unknown after it, too."""
    from homotopy_cli.cli.outputs import gate_names

    names = [name for name in gate_names(found[0]) if name not in ("layers", "baseline")]
    gates = [word for name in names for word in ("--fail-on", f"{name} == 1e300")]
    done = homotopy("probe", "late.pt", *FOREIGN, "--quick", *gates, cwd=folder)
    assert done.code in (0, 1) and "unknown metric" not in done.err


def test_the_saved_rate_is_held_against_every_edge(found):
    document, done = found
    assert document["lr"] == {"value": 0.02, "source": "the checkpoint's adam"}
    for name, edge in document["edges"].items():
        assert document["edge_ratios"][name] == pytest.approx(0.02 / edge)
    assert document["edges"]["sgd"] == pytest.approx(2.0 / document["lambda_max"]["value"])
    assert document["edges"]["adam"] == document["edges"]["own"]
    assert "Learning rate 0.0200 (the checkpoint's adam) is " in done.out
    assert " of this checkpoint's optimizer's, " in done.out


def test_the_critical_rates_bracket_a_real_rise_of_the_loss(found, folder):
    document, done = found
    plain, scaled = document["lr_range"]
    assert plain["along"] == "gradient" and scaled["along"] == "preconditioned_gradient"
    model = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 3))
    model.load_state_dict(torch.load(folder / "late.pt")["model"])
    x, y = torch.load(folder / "batch.pt")
    loss = torch.nn.functional.cross_entropy(model(x), y)
    grads = torch.autograd.grad(loss, list(model.parameters()))

    def stepped(rate):
        with torch.no_grad():
            for p, g in zip(model.parameters(), grads, strict=True):
                p -= rate * g
            value = torch.nn.functional.cross_entropy(model(x), y).item()
            for p, g in zip(model.parameters(), grads, strict=True):
                p += rate * g
        return value

    assert stepped(0.97 * plain["low"]) < loss.item() < stepped(1.03 * plain["high"])
    assert "Critical learning rate along the gradient" in done.out


def test_two_checkpoints_stand_side_by_side(found, folder):
    document, done = found
    rows = {row["quantity"]: row for row in document["comparison"]}
    alone = homotopy("probe", "early.pt", *FOREIGN, "--json", "-", cwd=folder)
    early = json.loads(alone.out)
    assert document["baseline"]["lambda_max"]["value"] == early["lambda_max"]["value"]
    assert rows["loss"]["ratio"] == pytest.approx(document["loss"] / early["loss"])
    assert rows["layers.0.lambda_max"]["other"] == early["layers"][0]["lambda_max"]
    assert rows["lambda_max"]["distinct"] is True
    assert "Beside early.pt" in done.out and "this/other" in done.out


def test_gates_may_speak_of_the_other_checkpoint(found):
    _, done = found
    assert done.code == 1
    assert "loss < baseline.loss" in done.err and "lambda_max < 0" not in done.err


def test_a_rate_given_is_the_rate_judged(folder):
    argv = (*FOREIGN, "--quick", "--json", "-", "--lr", "0.5")
    document = json.loads(homotopy("probe", "late.pt", *argv, cwd=folder).out)
    assert document["lr"] == {"value": 0.5, "source": "--lr"}
    assert document["edge_ratios"]["sgd"] == pytest.approx(0.5 / document["edges"]["sgd"])


@pytest.mark.parametrize("name", ["late.pt", "early.pt"])
def test_the_page_names_the_edge_that_the_terminal_names(folder, name):
    """Of a young Adam, too: its bias correction lowers c from 38."""
    outputs = ("--json", "e.json", "--html", "e.html", "--out", f"e{name}.h5")
    homotopy("probe", name, *FOREIGN, "--quick", *outputs, cwd=folder)
    document = json.loads((folder / "e.json").read_text())
    c, log = document["optimizer"]["threshold"], read_log(folder / f"e{name}.h5")
    assert log.probes["edge_threshold"].tolist() == [c]
    for column, value in (
        ("residual", document["lambda_max"]["residual"]),
        ("preconditioned_residual", document["preconditioned_sharpness"]["residual"]),
    ):
        assert log.probes[column].tolist() == [value]
    told = f"lies at a learning rate of {rate(document['edges']['own'])} ({number(c, 3)}/"
    assert told in html.unescape((folder / "e.html").read_text(encoding="utf-8"))


def test_a_second_checkpoint_that_is_not_there_costs_no_measurement(folder):
    done = homotopy("probe", "late.pt", *FOREIGN, "--compare", "nowhere.pt", cwd=folder)
    assert is_two_lines(done) and "nowhere.pt" in done.err
    assert "Hessian-vector products" not in done.err


def test_eigenvalues_in_the_optimizers_metric_give_no_edge_of_sgd(found, folder):
    """λ(P⁻¹H) has the unit 1/lr of the optimizer: 2/λ is no rate of plain gradient descent."""
    argv = (*FOREIGN, "--curvature", "preconditioned", "--json", "p.json", "--out", "p.h5")
    done = homotopy("probe", "late.pt", *argv, cwd=folder)
    scaled, plain = json.loads((folder / "p.json").read_text()), found[0]
    assert scaled["lambda_max"]["value"] > 2.0 * plain["lambda_max"]["value"]
    assert scaled["edges"]["sgd"] is None and scaled["edges"]["momentum"] is None
    assert scaled["edges"]["adam"] == pytest.approx(plain["edges"]["adam"], rel=1e-3)
    assert "λ_max(P⁻¹H) = " in done.out and "plain gradient descent" not in done.out
    log = read_log(folder / "p.h5")
    assert math.isnan(log.probes["lambda_max"][0]) and math.isnan(log.probes["kappa"][0])
    assert math.isnan(log.probes["residual"][0])
    top = scaled["preconditioned_sharpness"]["value"]
    assert log.probes["preconditioned_sharpness"][0] == pytest.approx(top)
