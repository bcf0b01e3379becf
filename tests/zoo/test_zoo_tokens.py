"""Texts as BPE tokens and with masks: exact round trips, no peeking, faults in words."""

import math
import sys

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from homotopy_cli.errors import ProblemError, RecipeError
from homotopy_cli.recipe.datasets import TextData, TokenData
from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.zoo.data import IGNORED
from homotopy_cli.zoo.registry import build_data
from homotopy_cli.zoo.text import pydoc_topics, token_text
from homotopy_cli.zoo.vocabulary import ASCII

TEXT = pydoc_topics()[:60_000]
BPE = TokenData(tokenizer="bpe", vocab_size=400, context=16)


@pytest.fixture(scope="module")
def bpe():
    return token_text(TEXT, BPE, origin="topics")


def test_bpe_decodes_to_the_text_it_came_from(bpe):
    strange = "naïve 日本語 \n\t tokens"  # bytes cover what training never saw
    vocabulary = bpe.vocabulary
    for text in (TEXT[:5000], strange):
        assert vocabulary.decode(vocabulary.encode(text)) == text
    assert bpe.info.vocab_size == vocabulary.size == 400
    assert bpe.info.kind == "tokens"
    assert len(vocabulary.encode(TEXT)) < 0.6 * len(TEXT)
    assert "tokens, BPE of 400 tokens, 10% held out" in bpe.info.description


def test_bpe_learns_from_the_training_part_only():
    """The end of the text changes; the vocabulary must not."""
    other = token_text(TEXT[:54_000] + "zq" * 3000, BPE, origin="t")
    own = token_text(TEXT, BPE, origin="t")
    probe = "The zqzqzq of the argument list"
    assert torch.equal(other.vocabulary.encode(probe), own.vocabulary.encode(probe))


def test_bpe_is_the_same_every_time(bpe):
    again = token_text(TEXT, BPE, origin="topics")
    assert torch.equal(again.vocabulary.encode(TEXT), bpe.vocabulary.encode(TEXT))
    for a, b in zip(again.batch(5, 4, 1), bpe.batch(5, 4, 1), strict=True):
        assert torch.equal(a, b)


def test_windows_of_tokens_are_windows_of_the_text(bpe):
    inputs, targets = bpe.batch(3, 8, 0)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    for row in inputs:
        assert bpe.decode(row).strip("\ufffd") in TEXT[:54_000]
    for inputs, _ in bpe.eval_batches(4, 2):
        for row in inputs:
            assert bpe.decode(row).strip("\ufffd") in TEXT[54_000:]


@pytest.fixture
def folder(tmp_path):
    """A tokenizer of words as a file, with a mask and a padding token."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[UNK]", "[PAD]", "[MASK]"]
    tokenizer.train_from_iterator(
        ["the cat sat on the mat"], trainers.WordLevelTrainer(special_tokens=special)
    )
    tokenizer.enable_truncation(4)  # such settings belong to the folder's own use
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_a_tokenizer_of_a_folder(folder):
    (folder / "text.txt").write_text("the cat sat on the mat " * 50)
    for path in (".", "tokenizer.json"):
        spec = TextData(path="text.txt", tokenizer=path, context=6, objective="masked")
        source = build_data(spec, folder)
        assert source.info.vocab_size == 8
        masked = source.batch(0, 4, 0)[0]
        assert (masked == 2).any()  # its own mask token
        assert source.vocabulary.pad == 1


def test_masked_tokens_are_the_targets_and_nothing_else():
    source = token_text(TEXT, TokenData(context=50, objective="masked", mask=0.2), origin="t")
    assert source.info.kind == "masked"
    mask = len(ASCII)
    assert source.info.vocab_size == mask + 1
    inputs, targets = source.batch(4, 64, 1)
    hidden = inputs == mask
    assert torch.equal(hidden, targets != IGNORED)
    share, n = hidden.double().mean().item(), hidden.numel()
    assert abs(share - 0.2) < 4 * math.sqrt(0.2 * 0.8 / n)  # 4 standard errors
    restored = torch.where(hidden, targets, inputs)
    for row in restored:
        assert source.decode(row) in TEXT
    for a, b in zip(source.batch(4, 64, 1), (inputs, targets), strict=True):
        assert torch.equal(a, b)
    rare = token_text(TEXT, TokenData(context=5, objective="masked", mask=1e-6), origin="t")
    assert ((rare.batch(0, 32, 0)[1] != IGNORED).sum(1) == 1).all()


def test_held_out_masks_do_not_depend_on_how_rows_are_batched():
    source = token_text(TEXT, TokenData(context=20, objective="masked"), origin="t")
    wide, narrow = source.eval_batches(8, 1), source.eval_batches(2, 4)
    assert torch.equal(wide[0][0], torch.cat([x for x, _ in narrow]))
    assert torch.equal(wide[0][1], torch.cat([y for _, y in narrow]))


def test_tokenizer_faults(tmp_path, monkeypatch):
    (tmp_path / "t.txt").write_text(TEXT)
    (tmp_path / "bad.json").write_text("{}")

    def refusal(tokenizer):
        with pytest.raises(ProblemError) as caught:
            build_data(TextData(path="t.txt", tokenizer=tokenizer), tmp_path)
        return caught.value

    missing = refusal("gpt2")
    assert missing.message.startswith("gpt2: no such tokenizer; looked in ")
    assert missing.hint == "--set data.tokenizer=PATH"
    assert refusal(".").message == ".: holds no tokenizer.json"
    assert "save_pretrained(FOLDER)" in refusal(".").hint
    assert refusal("bad.json").message.startswith("bad.json: is not a tokenizer (")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    gone = refusal("bpe")
    assert gone.message.startswith(
        "data.tokenizer bpe: needs tokenizers, which is not installed (import of tokenizers"
    )
    assert gone.hint == "pip install 'homotopy-cli[hf]'"


def test_too_small_a_vocabulary_for_bytes(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "model: gpt\ndata: {name: text, path: t.txt, tokenizer: bpe, vocab_size: 200}\n"
        "optimizer: {name: sgd, lr: 1}\nsteps: 1\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.message == (
        f"{path}:2: data.vocab_size: 200 is too small: BPE starts from 256 bytes"
    )
    assert caught.value.hint == "vocab_size: 1024"


def test_a_missing_text_says_how_to_get_one(tmp_path):
    with pytest.raises(ProblemError) as caught:
        build_data(TextData(path="data/t.txt"), tmp_path)
    assert caught.value.message == (
        f"data/t.txt: no such data file; looked in {tmp_path}/data, which does not exist"
    )
    assert caught.value.hint == "any UTF-8 text will do: --set data.path=FILE.txt"
