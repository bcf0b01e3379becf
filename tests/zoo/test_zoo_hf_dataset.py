"""Datasets that `save_to_disk` wrote: rows, images, texts, labelled texts, faults."""

import sys

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, disable_progress_bars
from PIL import Image

from homotopy_cli.errors import ProblemError
from homotopy_cli.recipe.datasets import HfDatasetData
from homotopy_cli.recipe.models import Encoder
from homotopy_cli.zoo.registry import build_data, build_model

disable_progress_bars()
RNG = np.random.default_rng(0)


@pytest.fixture
def saved(tmp_path):
    def write(columns, name="set", features=None):
        Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / name)
        return tmp_path

    return write


def build(base, **settings):
    return build_data(HfDatasetData(**{"path": "set", **settings}), base)


def refusal(base, **settings) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        build(base, **settings)
    assert "\n" not in caught.value.message
    return caught.value


def test_rows_of_numbers(saved):
    x = RNG.normal(size=(40, 3)).astype("f4")
    base = saved({"inputs": x, "target": np.arange(40) % 4})
    source = build(base, x="inputs", y="target", holdout=0.25)
    assert (source.n_train, source.n_eval) == (30, 10)
    assert (source.info.kind, source.info.n_classes) == ("classes", 4)
    inputs, targets = source.eval_batches(10, 1)[0]
    for row, target in zip(inputs.numpy(), targets, strict=True):
        found = int(np.abs(x - row).sum(1).argmin())
        assert np.array_equal(x[found], row)
        assert found % 4 == target
    floats = saved({"x": x, "y": x[:, 0]}, "floats")
    assert build(floats, path="floats").info.kind == "regression"


def test_splits_stay_apart(tmp_path):
    parts = {
        name: Dataset.from_dict({"x": [[float(sign)]] * n, "y": [0, 1] * (n // 2)})
        for name, sign, n in (("train", 1, 8), ("test", -1, 4))
    }
    DatasetDict(parts).save_to_disk(tmp_path / "set")
    source = build(tmp_path)
    assert (source.n_train, source.n_eval) == (8, 4)
    assert (source.batch(0, 8, 0)[0] == 1).all()
    assert (source.eval_batches(4, 1)[0][0] == -1).all()
    error = refusal(tmp_path, train="training")
    assert error.message == "set: has no split 'training'; it has train, test"


def test_images(saved):
    pixels = RNG.integers(0, 256, size=(6, 5, 4, 3), dtype="u1")
    base = saved({"x": [Image.fromarray(p) for p in pixels], "y": [0, 1, 2] * 2})
    images, _ = build(base, holdout=0.0).eval_batches(6, 1)[0]
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(images, expected)
    grey = saved({"x": [Image.fromarray(p[..., 0]) for p in pixels], "y": [0] * 6}, "grey")
    assert build(grey, path="grey").info.input_shape == (1, 5, 4)
    mixed = [Image.fromarray(pixels[0]), Image.fromarray(pixels[1][:3])]
    base = saved({"x": mixed, "y": [0, 1]}, "mixed")
    assert "x has images of 2 sizes, (3, 4) to (5, 4)" in refusal(base, path="mixed").message


def test_a_text(saved):
    base = saved({"text": [f"line {i} of the text" for i in range(60)]})
    source = build(base, text="text", context=16)
    assert source.info.kind == "tokens"
    assert source.decode(source.eval_batches(1, 1)[0][0][0]) in "\n".join(
        f"line {i} of the text" for i in range(60)
    )


def test_labelled_texts_are_padded_rows(saved):
    texts = ["good", "a bad thing happened", "fine", "awful"] * 10
    features = Features({"x": Value("string"), "y": ClassLabel(names=["neg", "pos"])})
    base = saved({"x": texts, "y": [1, 0, 1, 0] * 10}, features=features)
    source = build(base, context=8)
    info = source.info
    assert (info.kind, info.n_classes, info.context, info.pad) == ("classes", 2, 8, 96)
    rows, labels = source.batch(0, 36, 0)
    for row, label in zip(rows, labels, strict=True):
        kept = row[row != info.pad]
        assert (row[len(kept) :] == info.pad).all()
        text = "".join(chr(int(t) + 31) for t in kept)  # ASCII begins with a line feed, then space
        assert (text in ("good", "fine")) == bool(label)
        assert any(full.startswith(text) for full in texts)
    model = build_model(Encoder(layers=1, heads=1, width=4), info)
    assert model(rows).shape == (36, 2)


def test_faults(saved, tmp_path, monkeypatch):
    base = saved({"x": [[1.0], [2.0]], "y": [0, 1], "note": ["a", "b"]})
    assert refusal(base, y="yy").message == "set: has no column 'yy'; it has x, y, note"
    assert refusal(base, text="x").message == "set: column 'x' holds no text"
    assert refusal(base, path="nothing").message.startswith("nothing: no such data folder; looked")
    (tmp_path / "empty").mkdir()
    error = refusal(base, path="empty")
    assert error.message.startswith("empty: is not a saved dataset (Directory ")
    assert error.hint == "dataset.save_to_disk(FOLDER) writes one"
    ragged = saved({"x": [[1.0], [2.0, 3.0]], "y": [0, 1]}, "ragged")
    error = refusal(ragged, path="ragged")
    assert error.message == "ragged: x has rows of different shapes, or missing values"
    monkeypatch.setitem(sys.modules, "datasets", None)
    error = refusal(base)
    assert error.message.startswith("data hf_dataset: needs datasets, which is not installed (")
    assert error.hint == "pip install 'homotopy-cli[datasets]'"
