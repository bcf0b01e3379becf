"""A transformers folder as a recipe's model: its weights, its scores, its faults."""

import sys

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    ResNetConfig,
    ResNetForImageClassification,
)

from homotopy_cli.errors import CheckpointError, ProblemError
from homotopy_cli.recipe.models import Hf
from homotopy_cli.zoo.data import DataInfo
from homotopy_cli.zoo.registry import build_model

TOKENS = DataInfo("tokens", "text", vocab_size=30, context=8, input_shape=(8,))
MASKED = DataInfo("masked", "text", vocab_size=30, context=8, input_shape=(8,))
IMAGES = DataInfo("classes", "images", n_classes=5, input_shape=(3, 32, 32))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("hf")
    torch.manual_seed(0)
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=30, n_positions=16, n_embd=16, n_layer=2, n_head=2))
    bert = BertForMaskedLM(
        BertConfig(
            vocab_size=30,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
        )
    )
    resnet = ResNetForImageClassification(
        ResNetConfig(
            embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=5
        )
    )
    models = {"gpt": gpt, "bert": bert, "resnet": resnet}
    for name, model in models.items():
        model.save_pretrained(base / name)
    return base, models


@pytest.mark.parametrize(
    ("name", "task", "info", "inputs"),
    [
        ("gpt", "causal_lm", TOKENS, torch.arange(16).reshape(2, 8)),
        ("bert", "masked_lm", MASKED, torch.arange(16).reshape(2, 8)),
        ("resnet", "image_classification", IMAGES, torch.ones(2, 3, 32, 32)),
    ],
)
def test_scores_are_the_saved_model_s(folders, name, task, info, inputs):
    base, models = folders
    model = build_model(Hf(path=name, task=task), info, base_dir=base)
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in models[name].named_parameters()
    }
    expected = models[name].eval()(inputs).logits
    torch.testing.assert_close(model.eval()(inputs).logits, expected, rtol=1e-5, atol=1e-6)


def test_random_weights_follow_the_seed_and_not_the_folder(folders):
    base, models = folders
    spec = Hf(path="gpt", weights="random")

    def weight(seed):
        torch.manual_seed(seed)
        return build_model(spec, TOKENS, base_dir=base).transformer.wte.weight

    assert torch.equal(weight(1), weight(1))
    assert not torch.equal(weight(1), weight(2))
    assert not torch.equal(weight(1), models["gpt"].transformer.wte.weight)


def test_loading_leaves_the_generator_alone(folders):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build_model(Hf(path="gpt"), TOKENS, base_dir=folders[0])
    assert torch.equal(torch.get_rng_state(), before)


def _refusal(spec, info, base, kind=ProblemError):
    with pytest.raises(kind) as caught:
        build_model(spec, info, base_dir=base)
    assert "\n" not in caught.value.message
    return caught.value


def test_faults(folders, tmp_path, monkeypatch):
    base, _ = folders
    error = _refusal(Hf(path="gtp"), TOKENS, base)
    assert error.message.startswith("gtp: no such transformers folder; looked in ")
    assert error.hint == "did you mean 'gpt'?"
    error = _refusal(Hf(path="."), TOKENS, base)
    assert error.message == (
        ".: is not a transformers folder: it has no config.json with a model_type"
    )
    error = _refusal(Hf(path="gpt"), IMAGES, base)
    assert error.message == "model.task causal_lm wants tokens, the data are classes: images"
    many = DataInfo("tokens", "text", vocab_size=31, context=8)
    error = _refusal(Hf(path="gpt"), many, base)
    assert error.message == "gpt: knows 30 tokens, the data have 31"
    assert error.hint == "--set data.tokenizer=gpt"
    long = DataInfo("tokens", "text", vocab_size=30, context=17)
    error = _refusal(Hf(path="gpt"), long, base)
    assert error.message == "gpt: has 16 positions, data.context is 17"
    four = DataInfo("classes", "images", n_classes=4, input_shape=(3, 32, 32))
    error = _refusal(Hf(path="resnet", task="image_classification"), four, base)
    assert error.message == "resnet: its head has 5 classes, the data have 4"
    (tmp_path / "config.json").write_text((base / "gpt" / "config.json").read_text())
    error = _refusal(Hf(path="."), TOKENS, tmp_path, CheckpointError)
    assert error.message.startswith(f"{tmp_path}: transformers cannot build AutoModelForCausalLM: ")
    assert build_model(Hf(path=".", weights="random"), TOKENS, base_dir=tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    error = _refusal(Hf(path="gpt"), TOKENS, base)
    assert error.message.endswith("transformers is not installed")
    assert error.hint == "pip install 'homotopy-cli[hf]'"
