"""Every shipped recipe, cut small, learns in a plain torch loop: no scheduler, no probe."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import GPT2Config, GPT2LMHeadModel

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
    "cifar10_vit": ["steps=40", "model.width=12", "model.layers=2", "optimizer.lr=3e-3"],
    "imagenet_resnet50": ["steps=12", "data.size=32", "model.width=4", "batch_size=16"],
    "hf_finetune": ["steps=30", "optimizer.lr=1e-2", *SHORT],
    "digits": ["steps=60"],
    "mlp_npz": ["steps=30"],
}


def _save_gpt2(folder):
    """A tiny GPT-2 from chance, with a tokenizer of single bytes."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(vocab_size=256, initial_alphabet=sorted(ByteLevel.alphabet()))
    tokenizer.train_from_iterator([], trainer)
    config = GPT2Config(vocab_size=256, n_positions=32, n_embd=32, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


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
    for row, label in enumerate([0, 1] * 20):
        folder = tmp_path / "images" / ("train" if row < 32 else "val") / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 100, size=(40, 40, 3), dtype="u1") + np.uint8(150 * label)
        Image.fromarray(pixels).save(folder / f"{row}.png")
    _save_gpt2(tmp_path / "gpt2")
    return {
        "cifar10_vit": [f"data.path={tmp_path}"],
        "imagenet_resnet50": [f"data.path={tmp_path}/images"],
        "hf_finetune": [
            f"data.path={tmp_path}/text.txt",
            f"data.tokenizer={tmp_path}/gpt2",
            f"model.path={tmp_path}/gpt2",
        ],
        "gpt_wikitext2": [f"data.path={tmp_path}/text.txt"],
        "cifar10_resnet": [f"data.path={tmp_path}"],
        "cifar10_resnet18": [f"data.path={tmp_path}"],
        "gpt_depth": [f"data.path={tmp_path}/text.txt"],
        "mlp_npz": [f"data.path={tmp_path}/data.npz"],
    }


def test_every_shipped_recipe_is_here():
    assert set(TINY) == {path.stem for path in RECIPES.glob("*.yaml")}


@pytest.mark.parametrize("name", TINY)
def test_a_recipe_learns(name, data_paths):
    overrides = TINY[name] + data_paths.get(name, [])
    loaded = load_recipe(RECIPES / f"{name}.yaml", overrides, profile="small")
    recipe = loaded.recipe
    torch.manual_seed(recipe.seed)
    dtype = getattr(torch, recipe.dtype)
    data = build_data(recipe.data, loaded.base_dir, dtype=dtype)
    model = build_model(recipe.model, data.info, base_dir=loaded.base_dir).to(dtype)
    class_ = getattr(torch.optim, TORCH_OPTIMIZERS[recipe.optimizer.name])
    optimizer = class_(model.parameters(), **recipe.optimizer.settings())

    def loss_of(batch):
        if data.info.kind == "none":
            return model(batch)["loss"]
        x, y = batch
        scores = model(x)
        scores = getattr(scores, "logits", scores)  # transformers' models
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
