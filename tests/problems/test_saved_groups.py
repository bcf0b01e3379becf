"""λ_max(P⁻¹H) and the edge of saved optimizers with several parameter groups.

Oracle: the dense Hessian by torch.autograd in float64, and P written out from the live
optimizer's state, parameter by parameter; nothing is matched there.
"""

import json

import pytest
import torch
from torch import nn

from homotopy_cli.cli.app import run
from homotopy_cli.schedulers.per_layer import split_groups

MODEL = """
from torch import nn
def build():
    return nn.Sequential(
        nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)
    )
"""


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))


def layers(model, rates, order=(0, 2, 4), named=True, prefix=""):
    """One group for each linear layer."""
    found = []
    for number, rate in zip(order, rates, strict=True):
        pairs = list(model[number].named_parameters(prefix=f"{prefix}{number}"))
        found.append({"params": pairs if named else [p for _, p in pairs], "lr": rate})
    return found


def decayed(model):
    """The usual split: matrices decay, vectors do not."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path


def trained(groups, kind=torch.optim.AdamW, steps=20, split=False, **settings):
    """(Model, optimizer) after some steps, saved in ckpt.pt with its batch in batch.pt."""
    torch.manual_seed(1)
    x, y = torch.randn(32, 4), torch.randint(0, 4, (32,))
    x[:, 0] *= 20
    model = net()
    optimizer = kind(groups(model), **{"lr": 1e-3, **settings})
    if split:
        split_groups(optimizer, model)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "ckpt.pt")
    torch.save((x, y), "batch.pt")
    return model, optimizer


def probed(capsys, *more):
    options = ("--model", "model.py:build", "--loss", "cross_entropy", "--batch", "batch.pt")
    brief = ("--layers", "none", "--no-trace", "--no-density", "--quiet", "--dtype", "float64")
    assert run(["probe", "ckpt.pt", *options, *brief, *more, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def edge_product(model, optimizer):
    """λ_max(D P⁻¹H), D the groups' rates: what the edge of stability holds against c."""
    x, y = torch.load("batch.pt")
    double = net().double()
    double.load_state_dict(model.state_dict())
    params = list(double.parameters())
    loss = nn.functional.cross_entropy(double(x.double()), y)
    grad = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, params, create_graph=True)])
    rows = [torch.autograd.grad(entry, params, retain_graph=True) for entry in grad]
    hessian = torch.stack([torch.cat([r.reshape(-1) for r in row]) for row in rows])
    scale = []
    for p in model.parameters():
        group = next(g for g in optimizer.param_groups if any(q is p for q in g["params"]))
        metric = torch.ones(p.numel(), dtype=torch.float64)
        if "betas" in group:
            state = optimizer.state[p]
            second = state["exp_avg_sq"].double() / (1 - group["betas"][1] ** float(state["step"]))
            metric = second.sqrt().reshape(-1) + group["eps"]
        scale.append(float(group["lr"]) / metric)
    root = torch.cat(scale).sqrt()
    return torch.linalg.eigvalsh(root[:, None] * hessian * root)[-1].item()


SAME, DIFFER = (1e-3, 1e-3, 1e-3), (1e-6, 3e-1, 1e-2)
KNOWN = {
    "head first": lambda m: layers(m, SAME, (4, 2, 0)),
    "of DDP": lambda m: layers(m, SAME, (4, 0, 2), prefix="module._orig_mod."),
    "of Lightning": lambda m: layers(m, SAME, (4, 0, 2), prefix="model."),
    "decay": decayed,
    "rates": lambda m: layers(m, DIFFER, (4, 2, 0)),
    "a frozen group": lambda m: layers(m, (0.0, 1e-2, 1e-3), (2, 0, 4)),
}


@pytest.mark.parametrize("groups", KNOWN.values(), ids=KNOWN)
def test_moments_of_several_groups_are_those_of_their_parameters(folder, capsys, groups):
    model, optimizer = trained(groups)
    found = probed(capsys)
    wanted = edge_product(model, optimizer)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    assert found["optimizer"]["lr"] == max(rates)
    assert max(rates) * found["preconditioned_sharpness"]["value"] == pytest.approx(wanted, 1e-4)
    decay = max(g["weight_decay"] * g["lr"] for g in optimizer.param_groups)
    edge = 38 * (1 - 0.9**21)  # Cohen et al. 2022, with the bias correction of step 21
    assert found["edge_ratios"]["own"] == pytest.approx(wanted / edge, rel=decay + 1e-4)


def test_rates_of_sgd_that_differ_are_in_its_edge(folder, capsys):
    """Oracle of the edge: 2(1 + 0.5) = η λ_max(H) with H scaled by each group's rate."""
    groups = lambda m: layers(m, (1e-5, 3e-2, 1e-3), (4, 2, 0))  # noqa: E731
    model, optimizer = trained(groups, torch.optim.SGD, momentum=0.5)
    found = probed(capsys)
    wanted = edge_product(model, optimizer) / 3.0
    assert found["edge_ratios"]["own"] == pytest.approx(wanted, rel=1e-4)
    assert any("learning rates of 3 groups differ" in n for n in found["checkpoint"]["notes"])


def test_per_layer_groups_of_a_run_name_their_layer(folder, capsys):
    model, optimizer = trained(lambda m: m.parameters(), split=True)
    assert len(optimizer.param_groups) == 3
    found = probed(capsys)
    wanted = edge_product(model, optimizer)
    assert 1e-3 * found["preconditioned_sharpness"]["value"] == pytest.approx(wanted, 1e-4)
    assert not any("groups" in note for note in found["checkpoint"]["notes"])


@pytest.mark.parametrize("order", [(0, 2, 4), (4, 2, 0)])
def test_groups_of_equal_shapes_without_names_are_not_guessed(folder, capsys, order):
    trained(lambda m: layers(m, SAME, order, named=False))
    found = probed(capsys)
    assert found["preconditioned_sharpness"] is None and found["edge_ratios"]["own"] is None
    words = "its optimizer state has 3 parameter groups without names"
    assert any(words in note and "param_names" in note for note in found["checkpoint"]["notes"])
    given = ("--model", "model.py:build", "--loss", "cross_entropy", "--batch", "batch.pt")
    code = run(["probe", "ckpt.pt", *given, "--curvature", "preconditioned", "--quiet"])
    assert code == 2 and words in capsys.readouterr().err


def test_sgd_of_one_rate_needs_no_names(folder, capsys):
    trained(lambda m: layers(m, SAME, named=False), torch.optim.SGD, momentum=0.5)
    found = probed(capsys)
    edge = 3.0 / found["lambda_max"]["value"]
    assert found["edges"]["own"] == pytest.approx(edge)


def test_names_of_other_parameters_are_not_taken(folder, capsys):
    trained(lambda m: layers(m, SAME, (4, 2, 0)))
    content = torch.load("ckpt.pt")
    for group in content["optimizer"]["param_groups"]:
        group["param_names"] = [f"other.{name}.x" for name in group["param_names"]]
    torch.save(content, "ckpt.pt")
    assert probed(capsys)["preconditioned_sharpness"] is None
