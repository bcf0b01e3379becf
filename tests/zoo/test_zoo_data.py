"""Data: pure functions of (step, seed), held-out rows fixed, faults in words."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from homotopy_cli.errors import ProblemError
from homotopy_cli.recipe.datasets import NpzData, QuadraticData, TextData, TokenData, UserData
from homotopy_cli.zoo.data import Rows, split_rows, spread
from homotopy_cli.zoo.randomness import mix
from homotopy_cli.zoo.registry import build_data
from homotopy_cli.zoo.text import ASCII, pydoc_topics, token_text, unigram_entropy

TEXT = "the quick brown fox jumps over the lazy dog. " * 60


def refusal(spec, base_dir) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        build_data(spec, base_dir)
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2
    return caught.value


@pytest.fixture
def npz(tmp_path):
    def write(name="data.npz", **arrays):
        rng = np.random.default_rng(0)
        default = {"x": rng.normal(size=(50, 3)).astype("f4"), "y": np.arange(50) % 4}
        np.savez(tmp_path / name, **(arrays or default))
        return NpzData(path=name)

    return write


@pytest.fixture
def sources(tmp_path, npz):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return {
        "text": build_data(TextData(path="text.txt", context=16), tmp_path),
        "npz": build_data(npz(), tmp_path),
        "quadratic": build_data(QuadraticData(noise=0.5), tmp_path),
    }


def flat(batch):
    return batch if isinstance(batch, tuple) else (batch,)


@pytest.mark.parametrize("name", ["text", "npz", "quadratic"])
def test_a_batch_is_a_pure_function_of_step_and_seed(sources, name):
    source = sources[name]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    in_order = [source.batch(step, 8, 3) for step in range(30)]
    for step in (29, 0, 17, 5):  # any order, other seeds between: the same rows
        source.batch(step, 8, 4)
        for a, b in zip(flat(source.batch(step, 8, 3)), flat(in_order[step]), strict=True):
            assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was touched"
    assert not torch.equal(flat(source.batch(0, 8, 3))[0], flat(source.batch(0, 8, 4))[0])
    assert not torch.equal(flat(source.batch(0, 8, 3))[0], flat(source.batch(1, 8, 3))[0])


@pytest.mark.parametrize("name", ["text", "npz"])
def test_held_out_rows_are_fixed_and_apart_from_training(sources, name):
    source = sources[name]
    held_out = source.eval_batches(4, 100)
    assert sum(len(batch[0]) for batch in held_out) == source.n_eval
    for a, b in zip(source.eval_batches(4, 2), source.probe_batches(4, 2), strict=True):
        assert torch.equal(a[0], b[0])
    assert [len(batch[0]) for batch in source.eval_batches(2, 2)] == [2, 2]
    if name == "npz":
        rows = {tuple(row) for batch in held_out for row in batch[0].tolist()}
        seen = {tuple(r) for s in range(40) for r in source.batch(s, 8, 0)[0].tolist()}
        assert not rows & seen
        assert len(rows | seen) == 50


def test_an_epoch_sees_every_row_once(npz, tmp_path):
    source = build_data(npz(), tmp_path)
    assert source.n_train == 45
    for epoch in range(3):
        drawn = [source.batch(epoch * 9 + i, 5, 7)[0] for i in range(9)]
        rows = Counter(tuple(row) for row in torch.cat(drawn).tolist())
        assert len(rows) == 45
    first, second = (
        torch.cat([source.batch(e * 9 + i, 5, 7)[0] for i in range(9)]) for e in (0, 1)
    )
    assert not torch.equal(first, second)


def test_more_rows_than_there_are(npz, tmp_path):
    source = build_data(npz(), tmp_path)
    with pytest.raises(ProblemError) as caught:
        source.batch(0, 46, 0)
    assert caught.value.message == "batch_size 46 is larger than the 45 training examples"
    assert caught.value.hint == "--set batch_size=45"
    assert len(source.batch(0, 45, 0)[0]) == 45


def test_the_split_holds_out_a_share_and_never_all():
    assert [len(part) for part in split_rows(100, 0.1)] == [90, 10]
    assert [len(part) for part in split_rows(5, 0.1)] == [4, 1]
    assert [len(part) for part in split_rows(1, 0.5)] == [1, 0]
    assert [len(part) for part in split_rows(10, 0.0)] == [10, 0]
    train, held_out = split_rows(1000, 0.3)
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(1000))
    assert torch.equal(split_rows(1000, 0.3)[1], held_out)


def test_spread_is_even_and_distinct():
    assert spread(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert spread(3, 5).tolist() == [0, 1, 2]
    assert spread(0, 5).tolist() == []


def test_mix_separates_neighbours():
    values = {mix(seed, step) for seed in range(50) for step in range(50)}
    assert len(values) == 2500
    assert mix(1, 2) != mix(2, 1)
    assert all(0 <= value < 2**64 for value in values)
    assert mix(-1) == mix(2**64 - 1)


def test_text_windows_are_shifted_by_one(sources):
    source = sources["text"]
    for x, y in (source.batch(3, 8, 1), source.eval_batches(8, 1)[0]):
        assert x.shape == y.shape
        assert x.dtype == torch.int64
        assert torch.equal(x[:, 1:], y[:, :-1])
        assert source.decode(x[0]) + source.decode(y[0, -1:]) in TEXT
    assert source.info.kind == "tokens"
    assert source.info.context == 16
    assert source.info.vocab_size == len(ASCII) == 96


def test_held_out_text_is_the_last_part(tmp_path):
    text = "a" * 900 + "b" * 100
    source = token_text(text, TokenData(context=10, holdout=0.1), origin="t")
    assert source.decode(source.eval_batches(1, 1)[0][0][0]) == "b" * 10
    seen = torch.cat([source.batch(step, 64, 0)[0] for step in range(50)])
    assert set(source.decode(seen.flatten())) == {"a"}
    whole = token_text(text, TokenData(context=10, holdout=0.0), origin="t")
    assert whole.decode(whole.eval_batches(1, 1)[0][0][0]) == "a" * 10


def test_unigram_entropy_in_closed_form():
    assert unigram_entropy(torch.tensor([0, 1, 2, 3])) == pytest.approx(math.log(4))
    assert unigram_entropy(torch.tensor([5, 5])) == 0.0
    p = torch.tensor([0, 0, 0, 1])
    expected = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert unigram_entropy(p) == pytest.approx(expected)


def test_the_quickstart_text_has_a_stable_vocabulary():
    text = pydoc_topics()
    assert set(text) <= set(ASCII)
    assert len(text) > 300_000
    assert text.count("?") < len(text) / 500
    source = build_data(TextData(source="pydoc_topics"))
    assert 2.5 < source.info.baseline["unigram_entropy"] < 3.5
    assert source.info.baseline["uniform_entropy"] == pytest.approx(math.log(96))
    assert "Python's own help topics" in source.info.description


def test_any_alphabet_makes_a_vocabulary(tmp_path):
    text = "Καλημέρα 世界 🙂\r\n" * 40
    (tmp_path / "t.txt").write_bytes(text.encode())
    source = build_data(TextData(path="t.txt", context=8), tmp_path)
    assert source.vocabulary.letters == "".join(sorted(set(text) - {"\r"}))
    assert source.decode(source.batch(0, 1, 0)[0][0]) in text.replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "t.txt: is empty"),
        (b"ok\ncaf\xe9", "t.txt:2: byte 0xe9 is not UTF-8"),
        (b"short", "t.txt: the training part has 5 characters, one example needs 65"),
        (b"x" * 100, "t.txt: the held-out part has 10 characters, one example needs 65"),
    ],
)
def test_text_faults(tmp_path, content, words):
    (tmp_path / "t.txt").write_bytes(content)
    assert words in refusal(TextData(path="t.txt"), tmp_path).message


def test_a_missing_file_names_the_folder_and_a_neighbour(npz, tmp_path):
    npz()
    for spec in (NpzData(path="dta.npz"), "dta.npz"):
        error = refusal(spec, tmp_path)
        assert error.message == f"dta.npz: no such data file; looked in {tmp_path}"
        assert error.hint == "did you mean 'data.npz'?"
    error = refusal(TextData(path="no/where.txt"), tmp_path)
    assert error.message == (
        f"no/where.txt: no such data file; looked in {tmp_path}/no, which does not exist"
    )


def test_npz_classes_and_regression(npz, tmp_path):
    source = build_data(npz(), tmp_path)
    info = source.info
    assert (info.kind, info.n_classes, info.input_shape) == ("classes", 4, (3,))
    assert info.baseline["class_entropy"] == pytest.approx(math.log(4), abs=0.01)
    x, y = source.batch(0, 5, 0)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    spec = npz("r.npz", x=np.ones((9, 2, 2), "f8"), y=np.arange(18.0).reshape(9, 2))
    source = build_data(spec, tmp_path, dtype=torch.float64)
    assert (source.info.kind, source.info.target_shape) == ("regression", (2,))
    assert source.info.baseline["variance"] == pytest.approx(np.arange(18.0).var())
    assert source.batch(0, 2, 0)[0].dtype == torch.float64


def test_npz_float64_keeps_its_digits(npz, tmp_path):
    value = 1 + 2**-40
    spec = npz("d.npz", x=np.full((4, 1), value), y=np.zeros(4))
    assert build_data(spec, tmp_path, dtype=torch.float64).batch(0, 1, 0)[0].item() == value


def test_npz_column_of_classes_and_other_names(npz, tmp_path):
    npz("c.npz", a=np.ones((6, 2), "f4"), b=np.arange(6)[:, None] % 2)
    source = build_data(NpzData(path="c.npz", x="a", y="b", holdout=0), tmp_path)
    assert source.batch(0, 6, 0)[1].shape == (6,)
    assert source.n_eval == 0
    assert "none held out" in source.info.description
    assert len(source.eval_batches(6, 1)[0][0]) == 6


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.ones((3, 1))}, "d.npz: has no array 'y'; it holds x"),
        ({"x": np.ones((3, 1)), "y": np.ones(2)}, "d.npz: x has 3 rows, y has 2"),
        ({"x": np.ones((0, 1)), "y": np.ones(0)}, "d.npz: x has no rows"),
        ({"x": np.ones((2, 1)), "y": np.array([0, -1])}, "d.npz: y holds class -1"),
        (
            {"x": np.array([[1.0], [np.nan], [np.inf]]), "y": np.arange(3)},
            "d.npz: x holds 2 values that are NaN or infinite",
        ),
        ({"x": np.array([["a"], ["b"]]), "y": np.arange(2)}, "d.npz: x has dtype <U1"),
        (
            {"x": np.array([{"a": 1}, None], dtype=object), "y": np.arange(2)},
            "d.npz: holds Python objects, which are not read",
        ),
    ],
)
def test_npz_faults(npz, tmp_path, arrays, words):
    npz("d.npz", **arrays)
    assert words in refusal(NpzData(path="d.npz"), tmp_path).message


def test_broken_npz_files(npz, tmp_path):
    npz()
    whole = (tmp_path / "data.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "cut.npz: is truncated or damaged" in refusal("cut.npz", tmp_path).message
    damaged = bytearray(whole)
    damaged[200] ^= 0xFF
    (tmp_path / "bit.npz").write_bytes(bytes(damaged))
    assert "bit.npz: is truncated or damaged" in refusal("bit.npz", tmp_path).message
    (tmp_path / "csv.npz").write_text("1,2,3")
    assert refusal("csv.npz", tmp_path).message == "csv.npz: is not an .npz file"
    (tmp_path / "folder.npz").mkdir()
    assert "is a folder, not a file" in refusal("folder.npz", tmp_path).message


def test_quadratic_rows_average_to_the_exact_quadratic():
    source = build_data(QuadraticData(noise=0.3))
    assert source.eval_batches(8, 1)[0].tolist() == list(range(64))
    assert sorted(source.batch(5, 64, 1).tolist()) == list(range(64))
    assert len(source.batch(5, 100, 1)) == 100
    epoch = torch.cat([source.batch(step, 16, 1) for step in range(4)])
    assert sorted(epoch.tolist()) == list(range(64))


def test_user_data(tmp_path):
    (tmp_path / "load.py").write_text(
        "import torch\n"
        "def pair(n=30): return torch.ones(n, 2), torch.zeros(n).long()\n"
        "def broken(): raise ValueError('no disk')\n"
        "def nothing(): return None\n"
        "five = 5\n"
    )
    source = build_data("load.py:pair", tmp_path)
    assert isinstance(source, Rows)
    assert (source.n_train, source.n_eval) == (27, 3)
    assert build_data(UserData(name="load.py:pair", n=10), tmp_path).n_train == 9
    assert "failed: ValueError: no disk" in refusal("load.py:broken", tmp_path).message
    assert "data load.py:nothing: returned None" in refusal("load.py:nothing", tmp_path).message
    assert "is a int, not a callable" in refusal("load.py:five", tmp_path).message
