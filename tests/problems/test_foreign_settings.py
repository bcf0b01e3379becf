"""Settings that omegaconf objects hold, as Hydra, Lightning and pyannote save them."""

import json
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from foreign_checkpoints import mlp, save, state, trained

from homotopy_cli.cli.app import run
from homotopy_cli.problems.checkpoint import read_checkpoint
from homotopy_cli.problems.legible import Inert, plain
from homotopy_cli.problems.load import load_problem

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(4))
MODEL = """
import torch.nn as nn
def build():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
"""


class Omega:
    """omegaconf's layout, and a parent that makes the nest hold itself; the library is absent."""

    def __init__(self, held, name, parent=None):
        self._metadata, self._parent = {"key": None}, parent
        setattr(self, name, held)


def configured(value, kinds, parent=None):
    """`value` as omegaconf keeps it."""
    if not isinstance(value, dict | list):
        return kinds["AnyNode"](value, "_val", parent)
    made = kinds["DictConfig" if isinstance(value, dict) else "ListConfig"]([], "_content", parent)
    if isinstance(value, dict):
        made._content = {k: configured(v, kinds, made) for k, v in value.items()}
    else:
        made._content = [configured(v, kinds, made) for v in value]
    return made


@pytest.fixture
def kinds(monkeypatch):
    """Classes that pickle under omegaconf's names."""
    places = {"AnyNode": "nodes", "DictConfig": "dictconfig", "ListConfig": "listconfig"}
    monkeypatch.setitem(sys.modules, "omegaconf", ModuleType("omegaconf"))
    made = {}
    for name, place in places.items():
        module = ModuleType(f"omegaconf.{place}")
        made[name] = type(name, (Omega,), {"__module__": module.__name__})
        setattr(module, name, made[name])
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


def saved(path, betas, **more):
    """A file of a trained MLP with the state of Adam after one step."""
    model = trained()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.8, 0.95))
    model(X).square().mean().backward()
    optimizer.step()
    content = optimizer.state_dict()
    content["param_groups"][0]["betas"] = betas
    return save(path, {"model": model.state_dict(), "optimizer": content, **more})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    save(tmp_path / "batch.pt", (X, torch.zeros(6, 3)))
    return tmp_path


def probed(path, capsys):
    options = ("--model", "model.py:build", "--loss", "mse", "--batch", "batch.pt")
    brief = ("--layers", "none", "--no-trace", "--no-density", "--quiet")
    assert run(["probe", str(path), *options, *brief, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def test_betas_in_a_list_of_omegaconf_give_the_optimizers_edge(folder, kinds, capsys):
    wanted = probed(saved(folder / "plain.pt", (0.8, 0.95)), capsys)["edges"]["adam"]
    found = probed(saved(folder / "omega.pt", configured([0.8, 0.95], kinds)), capsys)
    assert wanted is not None
    assert found["edges"]["adam"] == wanted


def test_settings_that_cannot_be_read_leave_the_edge_out_and_say_so(folder, capsys):
    found = probed(saved(folder / "odd.pt", "0.9, 0.999"), capsys)
    assert found["edges"]["adam"] is None and found["edges"]["sgd"] is not None
    words = "the optimizer state's betas cannot be read: '0.9, 0.999'"
    assert any(words in note for note in found["checkpoint"]["notes"])


@pytest.mark.parametrize("name", ["exp_avg_sq", "step"])
def test_moments_that_are_no_tensors_are_no_crash(folder, capsys, name):
    path = saved(folder / "odd.pt", (0.8, 0.95))
    content = torch.load(path)
    content["optimizer"]["state"][0][name] = "lost"
    found = probed(save(path, content), capsys)
    words = f"the optimizer state's {name} cannot be read: 'lost'"
    assert any(words in note for note in found["checkpoint"]["notes"])


@pytest.mark.parametrize("groups", [3, [3], None])
def test_an_optimizer_without_groups_is_none(tmp_path, groups):
    path = save(
        tmp_path / "a.pt", {"model": state(), "optimizer": {"state": {}, "param_groups": groups}}
    )
    assert read_checkpoint(path).optimizer_state is None
    x = (X, F.one_hot(torch.arange(6) % 3).float())
    assert load_problem(path, model=mlp(), loss="mse", batches=[x]).optimizer_info is None


def test_hyper_parameters_become_plain_values(tmp_path, kinds):
    held = {"layers": [40, 30], "inner": {"rate": 0.1, "name": "leaky", "none": None}}
    content = {"model": state(), "hparams": {"encoder": configured(held, kinds), "width": 3}}
    found = read_checkpoint(save(tmp_path / "a.pt", content))
    assert found.extra["hparams"] == {"encoder": held, "width": 3}
    whole = {"model": state(), "config": configured(held, kinds)}
    assert read_checkpoint(save(tmp_path / "b.pt", whole)).extra["config"] == held


def test_other_stand_ins_stay_and_a_nest_in_itself_ends():
    other = type("Other", (Inert,), {"path": "their.Other"})()
    assert plain({"a": [other]}) == {"a": [other]}
    knot = type("ListConfig", (Inert,), {"path": "omegaconf.listconfig.ListConfig"})()
    knot.__setstate__({"_content": [knot, 1]})
    assert plain(knot) == [knot, 1]


def test_an_optimizer_of_all_parameters_measures_the_trainable_ones(folder, capsys):
    """Frozen ones have no row in H; P of the rest is what the whole state says of them."""
    frozen = (
        MODEL.replace("return ", "net = ") + "    net[0].requires_grad_(False)\n    return net\n"
    )
    (folder / "model.py").write_text(frozen)
    saved(folder / "ckpt.pt", (0.8, 0.95))
    found = probed(folder / "ckpt.pt", capsys)
    held = torch.load(folder / "ckpt.pt")
    model = mlp().double()
    model.load_state_dict(held["model"])
    hidden = model[1](model[0](X.double())).detach()
    design = torch.cat([hidden, torch.ones(6, 1)], 1)  # the loss is quadratic in the last layer
    hessian = 2 / 18 * torch.kron(torch.eye(3).double(), design.T @ design)
    v = [held["optimizer"]["state"][i]["exp_avg_sq"].double() for i in (2, 3)]
    p = (torch.cat([v[0], v[1][:, None]], 1).reshape(-1) / (1 - 0.95)).sqrt() + 1e-8
    scaled = p.rsqrt()[:, None] * hessian * p.rsqrt()
    sharp = torch.linalg.eigvalsh(scaled)[-1].item()
    assert found["preconditioned_sharpness"]["value"] == pytest.approx(sharp, rel=1e-3)
    assert found["edges"]["adam"] is not None
    assert not any("optimizer state" in note for note in found["checkpoint"]["notes"])
