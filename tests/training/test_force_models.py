"""A model that differentiates in its own forward pass, as force fields do: trained, evaluated."""

import numpy as np
import torch
from training_runs import folder

from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.recipe.targets import load_target
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.loop import train
from homotopy_cli.zoo.registry import build_data

MODEL = """
import torch
class Forces(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
        )
    def forward(self, x):
        x = x.detach().requires_grad_()
        energy = self.net(x).sum()
        return -torch.autograd.grad(energy, x, create_graph=True)[0]
def build():
    return Forces()
def loss(model, batch):
    return (model(batch[0]) + batch[0]).square().mean()
"""


def test_forces_are_trained_probed_and_evaluated(tmp_path):
    recipe = folder(tmp_path, eval_every=4, steps=8, scheduler="homotopy")
    (tmp_path / "model.py").write_text(MODEL)
    result = train(load_recipe(recipe), tmp_path / "run.h5")
    log = read_log(tmp_path / "run.h5")
    assert result.status == "finished" and log.eval_step.tolist() == [0, 4, 8]
    assert np.isfinite(log.probes["lambda_max"]).any()
    model = load_target("model.py:build", tmp_path)()
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    loss = load_target("model.py:loss", tmp_path)
    batches = build_data("data.npz", tmp_path).eval_batches(16, 8)
    values = [(loss(model, batch).item(), len(batch[0])) for batch in batches]
    wanted = sum(v * n for v, n in values) / sum(n for _, n in values)
    torch.testing.assert_close(log.evals["eval_loss"][-1], wanted, rtol=1e-5, atol=0)
