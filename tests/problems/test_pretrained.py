"""transformers folders made here from configs: built, loaded whole or not at all, given a text."""

import json
import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from homotopy_cli.errors import CheckpointError, ProblemError
from homotopy_cli.problems.load import load_problem

VOCABULARY = 200
BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 48,
}


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    )


def t5():
    config = T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    config.decoder_start_token_id = 1
    return T5ForConditionalGeneration(config)


KINDS = {
    "gpt2": gpt2,
    "t5": t5,
    "masked": lambda: BertForMaskedLM(BertConfig(**BERT)),
    "encoder": lambda: BertModel(BertConfig(**BERT), add_pooling_layer=True),
    "classifier": lambda: BertForSequenceClassification(BertConfig(**BERT)),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Sentences of a small grammar: enough for pairs of passages."""
    words = [*("the", "a", "old", "small", "grey", "cat", "dog", "fox", "ship"), "sees", "finds"]
    generator = torch.Generator().manual_seed(3)
    picks = torch.randint(len(words), (3000,), generator=generator).tolist()
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text(" ".join(words[i] for i in picks), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path, text):
    """Write one kind as `save_pretrained` does, with a tokenizer trained on the text."""

    def make(kind):
        torch.manual_seed(5)
        path = tmp_path / kind
        model = KINDS[kind]().eval()
        model.save_pretrained(path)
        bpe = Tokenizer(models.BPE(unk_token="<unk>"))
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel()
        special = ["<unk>", "<pad>", "<mask>"]
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, show_progress=False
        )
        bpe.train_from_iterator([text.read_text()], trainer)
        names = {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
        PreTrainedTokenizerFast(tokenizer_object=bpe, **names).save_pretrained(path)
        return path, model

    return make


def value(loaded):
    problem = loaded.problem
    with problem.measuring(), torch.no_grad():
        return problem.batch_loss(0).item()


def test_a_causal_model_predicts_the_next_token(folder, text):
    path, model = folder("gpt2")
    loaded = load_problem(path, text=text, dtype="float64")
    assert loaded.checkpoint.kind == "transformers" and loaded.loss.name == "next_token"
    assert loaded.problem.n_params == sum(p.numel() for p in model.parameters())  # tied head once
    rows = loaded.problem.batches[0]["input_ids"]
    assert rows.shape == (32, 32) and loaded.problem.n_terms == 32 * 31
    with torch.no_grad():
        logits = model.double()(input_ids=rows).logits[:, :-1]
        own = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item()
    assert value(loaded) == pytest.approx(own, rel=1e-12)


def test_a_masked_model_restores_what_was_masked(folder, text):
    path, model = folder("masked")
    loaded = load_problem(path, text=text, dtype="float64")
    batch = loaded.problem.batches[0]
    kept = batch["labels"] != -100
    assert loaded.problem.n_terms == int(kept.sum()) and 0.1 < kept.float().mean() < 0.2
    assert (batch["input_ids"][kept] == 2).all()  # <mask>
    with torch.no_grad():
        logits = model.double()(**batch).logits
        own = F.cross_entropy(logits[kept], batch["labels"][kept]).item()
    assert value(loaded) == pytest.approx(own, rel=1e-12)
    again = load_problem(path, text=text, dtype="float64")
    assert torch.equal(again.problem.batches[0]["labels"], batch["labels"])
    other = load_problem(path, text=text, dtype="float64", seed=1)
    assert not torch.equal(other.problem.batches[0]["labels"], batch["labels"])


def test_a_translator_continues_the_passage_before(folder, text):
    path, _ = folder("t5")
    loaded = load_problem(path, text=text)
    batch = loaded.problem.batches[0]
    assert torch.equal(batch["input_ids"][1:], batch["labels"][:-1])
    assert 4.0 < value(loaded) < 8.0  # about log 200 at random weights


def test_an_encoder_without_a_head_pairs_passages(folder, text):
    path, model = folder("encoder")
    loaded = load_problem(path, text=text, dtype="float64")
    batch = loaded.problem.batches[0]
    n = len(batch["input_ids"]) // 2
    assert loaded.loss.name == "contrastive" and loaded.problem.n_terms == n
    with torch.no_grad():
        states = model.double()(**batch).last_hidden_state
        pooled = []
        for row, mask in zip(states, batch["attention_mask"], strict=True):
            mean = row[mask.bool()].mean(0)
            pooled.append(mean / mean.norm())
        scores = 20 * torch.stack(pooled[:n]) @ torch.stack(pooled[n:]).T
        own = -F.log_softmax(scores, dim=1).diagonal().mean().item()
    assert value(loaded) == pytest.approx(own, rel=1e-12)


def test_a_classifier_needs_labels(folder, text, tmp_path):
    path, _ = folder("classifier")
    with pytest.raises(ProblemError, match="BertForSequenceClassification needs labels"):
        load_problem(path, text=text)
    batch = tmp_path / "batch.pt"
    torch.save({"input_ids": torch.arange(24).view(3, 8), "labels": torch.tensor([0, 1, 1])}, batch)
    loaded = load_problem(path, batches=[batch])
    assert loaded.loss.name == "output" and loaded.problem.n_terms == 3


def test_no_text_and_no_batch_is_told(folder):
    path, _ = folder("gpt2")
    with pytest.raises(CheckpointError, match=r"GPT2LMHeadModel\) holds no data") as error:
        load_problem(path)
    assert f"homotopy probe {path} --text FILE.txt" in error.value.hint


def test_missing_tensors_are_never_filled_at_random(folder, text):
    path, _ = folder("gpt2")
    state = load_file(path / "model.safetensors")
    del state["transformer.h.0.mlp.c_fc.weight"]
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"not in the folder's weights: .*h\.0\.mlp\.c_fc"):
        load_problem(path, text=text)


def test_other_shapes_and_strangers_are_named(folder, text):
    path, _ = folder("gpt2")
    state = load_file(path / "model.safetensors")
    strange = {**state, "transformer.h.9.stranger": torch.ones(3)}
    save_file(strange, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"not in the model: .*stranger"):
        load_problem(path, text=text)
    state["transformer.wpe.weight"] = torch.ones(7, 16)
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError):
        load_problem(path, text=text)


def test_nan_weights_are_refused(folder, text):
    path, _ = folder("gpt2")
    state = load_file(path / "model.safetensors")
    state["transformer.wpe.weight"][0, 0] = float("nan")
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 NaN"):
        load_problem(path, text=text)


def test_code_in_a_folder_is_not_run(folder, text):
    path, _ = folder("gpt2")
    config = json.loads((path / "config.json").read_text())
    config |= {"architectures": ["EvilModel"], "auto_map": {"AutoModel": "evil.EvilModel"}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "evil.py").write_text(f"open({str(path / 'mark')!r}, 'w')\n")
    with pytest.raises(CheckpointError, match=r"EvilModel, which transformers .* does not have"):
        load_problem(path, text=text)
    assert not (path / "mark").exists()


def test_a_folder_without_tokenizer_says_so(folder, text):
    path, _ = folder("gpt2")
    (path / "tokenizer.json").unlink()
    (path / "tokenizer_config.json").unlink()
    with pytest.raises(ProblemError, match="holds no tokenizer") as error:
        load_problem(path, text=text)
    assert "--batch tokens.pt" in error.value.hint


def test_too_short_a_text(folder, tmp_path):
    path, _ = folder("gpt2")
    short = tmp_path / "short.txt"
    short.write_text("the cat")
    with pytest.raises(ProblemError, match="too few"):
        load_problem(path, text=short)
    with pytest.raises(ProblemError, match="no such file"):
        load_problem(path, text=tmp_path / "none.txt")


def test_without_the_library_the_extra_is_named(folder, text, monkeypatch):
    path, _ = folder("gpt2")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ProblemError, match="transformers is not installed") as error:
        load_problem(path, text=text)
    assert error.value.hint == "pip install 'homotopy-cli[hf]'"
