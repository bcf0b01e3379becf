"""Models that differentiate inside their forward pass: forces of a potential, a PINN's residual."""

import json

import pytest
import torch
from foreign_checkpoints import save
from torch import nn

from homotopy_cli.cli.app import run

MODEL = """
import torch
from torch import nn

class Potential(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 1)

    def forward(self, x):
        x = x.detach().requires_grad_()
        energy = self.last(torch.tanh(self.first(x)))
        return torch.autograd.grad(energy.sum(), x, create_graph=True)[0]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    net = nn.ModuleDict({"first": nn.Linear(3, 6), "last": nn.Linear(6, 1)})
    save(tmp_path / "ckpt.pt", net.state_dict())
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    save(tmp_path / "batch.pt", (x, y))
    return net.double(), x, y


def by_hand(net, x, y):
    """Loss and Hessian (n, n) from the closed form of the force: W₁ᵀ (w₂ (1 - tanh²))."""
    names = ("first.weight", "first.bias", "last.weight")
    sizes = [net.get_parameter(name).numel() for name in names]
    shapes = [net.get_parameter(name).shape for name in names]

    def loss(theta):
        w, b, last = (p.view(s) for p, s in zip(theta.split(sizes), shapes, strict=True))
        force = ((1 - torch.tanh(x @ w.T + b) ** 2) * last) @ w
        return ((force - y) ** 2).mean()

    theta = torch.cat([net.get_parameter(name).detach().reshape(-1) for name in names])
    return loss(theta).item(), torch.autograd.functional.hessian(loss, theta)


@pytest.mark.parametrize("more", [(), ("--lr-range",), ("--microbatch", "2"), ("--loss", "mse")])
def test_a_probe_differentiates_what_differentiates_already(folder, capsys, more):
    loss, hessian = by_hand(*folder)
    argv = ["probe", "ckpt.pt", "--model", "model.py:Potential", "--batch", "batch.pt"]
    argv += ["--dtype", "float64", "--layers", "none", "--rtol", "1e-6", "--quiet", *more]
    assert run([*argv, "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    wanted = torch.linalg.eigvalsh(hessian)
    assert found["loss"] == pytest.approx(loss, rel=1e-12)
    assert found["lambda_max"]["value"] == pytest.approx(wanted[-1].item(), rel=1e-5)
    assert found["lambda_min"]["value"] == pytest.approx(wanted[0].item(), rel=1e-5)
    assert found["components"] is not None
