"""Each kind of data with a model of its own: the command trains it, and probes what it wrote."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset, disable_progress_bars
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import GPT2Config, GPT2LMHeadModel, ResNetConfig, ResNetForImageClassification

from homotopy_cli.cli.app import run
from homotopy_cli.runlog.reader import read_log

disable_progress_bars()
RECIPE = """\
model: {model}
data: {data}
optimizer: {{name: sgd, lr: 0.01}}
scheduler: constant
curvature: {{freq: 2, layers_freq: 0, budget: 0}}
steps: 3
batch_size: 4
eval_batches: 1
"""
IMAGES = "{name: image_folder, path: images, size: 16, workers: 2}"
TEXT = "{name: text, path: text.txt, context: 8, "
CASES = {
    "bpe": (
        "{name: gpt, layers: 1, heads: 2, width: 8}",
        TEXT + "tokenizer: bpe, vocab_size: 280}",
        "perplexity",
    ),
    "masked": ("{name: encoder, layers: 1, heads: 2, width: 8}", TEXT + "objective: masked}", None),
    "hf_causal": ("{name: hf, path: gpt2}", TEXT + "tokenizer: gpt2}", "perplexity"),
    "hf_images": ("{name: hf, path: resnet, task: image_classification}", IMAGES, "accuracy"),
    "vit": ("{name: vit, layers: 1, heads: 2, width: 8}", IMAGES, "accuracy"),
    "resnet50": ("{name: resnet50, width: 2}", IMAGES, "accuracy"),
    "digits": ("{name: resnet18, width: 2}", "{name: digits}", "accuracy"),
    "labelled_texts": (
        "{name: encoder, layers: 1, heads: 2, width: 8}",
        "{name: hf_dataset, path: set, context: 8}",
        "accuracy",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(0)
    (base / "text.txt").write_text("the cat sat on the mat, the dog lay by the door. " * 40)
    for i in range(12):
        path = base / "images" / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), "u1")).save(path)
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    letters = sorted(ByteLevel.alphabet())
    tokenizer.train_from_iterator([], BpeTrainer(vocab_size=256, initial_alphabet=letters))
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(vocab_size=256, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    ).save_pretrained(base / "gpt2")
    tokenizer.save(str(base / "gpt2" / "tokenizer.json"))
    ResNetForImageClassification(
        ResNetConfig(
            embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=2
        )
    ).save_pretrained(base / "resnet")
    Dataset.from_dict({"x": ["good", "bad"] * 20, "y": [1, 0] * 20}).save_to_disk(base / "set")
    return base


@pytest.mark.parametrize("name", CASES)
def test_train_then_probe(name, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    model, data, metric = CASES[name]
    (folder / f"{name}.yaml").write_text(RECIPE.format(model=model, data=data))
    assert run(["train", f"{name}.yaml", "-q", "--no-report"]) == 0
    out = capsys.readouterr().out
    assert "finished: 3 of 3 steps" in out
    assert metric is None or f", {metric} " in out
    log = read_log(folder / f"runs/{name}/run.h5")
    assert np.isfinite(log.steps["loss"]).all()
    probe = ["probe", f"runs/{name}/run.pt", "--quick", "--max-hvp", "6", "--json", "-"]
    assert run(probe) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["lambda_max"]["value"] is not None
    held_out = float(log.evals["eval_loss"][-1])
    if name not in ("digits", "vit", "resnet50", "hf_images"):  # those probe on more rows
        assert found["loss"] == pytest.approx(held_out, rel=1e-4)
