"""Every shipped recipe, cut small, learns in a plain torch loop: no scheduler, no probe."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.recipe.optimizers import TORCH_OPTIMIZERS
from homotopy_cli.zoo.registry import build_data, build_model

RECIPES = Path(__file__).parents[2] / "recipes"
SHORT = ["batch_size=8", "data.context=32"]
TINY = {
    "quickstart": ["steps=30", "model.width=32", "optimizer.lr=1e-2", *SHORT],
    "quadratic": ["steps=30", "optimizer.lr=1.0"],
    "gpt_wikitext2": ["steps=30", "model.width=32", "model.layers=2", "optimizer.lr=1e-2", *SHORT],
    "cifar10_resnet": ["steps=12", "model.width=4", "batch_size=32", "optimizer.lr=0.02"],
    "cifar10_resnet18": ["steps=12", "model.width=4", "batch_size=32", "optimizer.lr=0.02"],
    "gpt_depth": ["steps=30", "optimizer.lr=1e-2", *SHORT],
    "mlp_npz": ["steps=30"],
}


@pytest.fixture
def data_paths(tmp_path):
    rng = np.random.default_rng(0)
    words = [
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "and",
        "dog",
        "ran",
        "over",
        "hill",
        "to",
        "sea",
    ]
    (tmp_path / "text.txt").write_text(" ".join(rng.choice(words, 4000)), encoding="utf-8")
    for name, n in (("data_batch_1", 64), ("test_batch", 32)):
        records = rng.integers(0, 100, size=(n, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(n) % 10
        records[:, 1:] += (records[:, :1] * 15).astype(np.uint8)  # brightness tells the class
        records.tofile(tmp_path / f"{name}.bin")
    x = rng.normal(size=(256, 8))
    y = (x @ rng.normal(size=(8, 3))).argmax(1)
    np.savez(tmp_path / "data.npz", x=x.astype("f4"), y=y)
    return {
        "gpt_wikitext2": [f"data.path={tmp_path}/text.txt"],
        "cifar10_resnet": [f"data.path={tmp_path}"],
        "cifar10_resnet18": [f"data.path={tmp_path}"],
        "gpt_depth": [f"data.path={tmp_path}/text.txt"],
        "mlp_npz": [f"data.path={tmp_path}/data.npz"],
    }


@pytest.mark.parametrize("name", TINY)
def test_a_recipe_learns(name, data_paths):
    overrides = TINY[name] + data_paths.get(name, [])
    loaded = load_recipe(RECIPES / f"{name}.yaml", overrides, profile="small")
    recipe = loaded.recipe
    torch.manual_seed(recipe.seed)
    dtype = getattr(torch, recipe.dtype)
    data = build_data(recipe.data, loaded.base_dir, recipe.seed, dtype=dtype)
    model = build_model(recipe.model, data.info, base_dir=loaded.base_dir).to(dtype)
    class_ = getattr(torch.optim, TORCH_OPTIMIZERS[recipe.optimizer.name])
    optimizer = class_(model.parameters(), **recipe.optimizer.settings())

    def loss_of(batch):
        if data.info.kind == "none":
            return model(batch)["loss"]
        x, y = batch
        scores = model(x)
        return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), y.reshape(-1))

    losses = []
    for step in range(recipe.steps):
        optimizer.zero_grad()
        loss = loss_of(data.batch(step, recipe.batch_size, recipe.seed))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    model.eval()
    for batch in data.eval_batches(recipe.batch_size, 2):
        assert torch.isfinite(loss_of(batch))
