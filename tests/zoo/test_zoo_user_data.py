"""What a user's data callable may return, and what is said of everything else."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from homotopy_cli.errors import ProblemError
from homotopy_cli.recipe.models import Mlp
from homotopy_cli.zoo.registry import build_model
from homotopy_cli.zoo.user_data import user_source

X = torch.arange(60.0).reshape(30, 2)
Y = torch.arange(30) % 3


class Noisy(Dataset):
    """Examples with a random augmentation, out of all three global generators."""

    def __init__(self, n=30):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        noise = torch.rand(()) + random.random() + np.random.rand()
        return X[i % 30] + noise, int(Y[i % 30])


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(X, Y, strict=True)


def loader(dataset=None, **options):
    return DataLoader(TensorDataset(X, Y) if dataset is None else dataset, 7, **options)


def made(value):
    return user_source(value, "f.py:data", torch.float32)


def refusal(value):
    with pytest.raises(ProblemError) as caught:
        made(value)
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value


WHOLE = {
    "arrays": (X, Y),
    "numpy": (X.numpy(), Y.numpy().astype(np.int32)),
    "lists": (X.tolist(), Y.tolist()),
    "rows": (list(X), list(Y)),
    "list": [X, Y],
    "dict": {"x": X, "y": Y},
    "capitals": {"X": X, "Y": Y},
    "dataset": TensorDataset(X, Y),
    "loader": loader(shuffle=True, num_workers=0),
}
PAIRS = {
    "arrays": ((X[:24], Y[:24]), (X[24:], Y[24:])),
    "lists of arrays": [[X[:24], Y[:24]], [X[24:], Y[24:]]],
    "dicts": ({"x": X[:24], "y": Y[:24]}, {"x": X[24:], "y": Y[24:]}),
    "datasets": (TensorDataset(X[:24], Y[:24]), TensorDataset(X[24:], Y[24:])),
    "split": tuple(random_split(TensorDataset(X, Y), [24, 6])),
    "loaders": (loader(TensorDataset(X[:24], Y[:24])), loader(TensorDataset(X[24:], Y[24:]))),
    "mixed": ((X[:24], Y[:24]), loader(TensorDataset(X[24:], Y[24:]))),
}


@pytest.mark.parametrize("name", WHOLE)
def test_one_part_holds_out_a_tenth(name):
    source = made(WHOLE[name])
    assert (source.n_train, source.n_eval) == (27, 3)
    assert (source.info.kind, source.info.n_classes) == ("classes", 3)
    assert source.info.input_shape == (2,)
    x, y = source.batch(0, 27, 1)
    held_x, held_y = source.eval_batches(3, 1)[0]
    assert sorted(torch.cat([x, held_x])[:, 0].tolist()) == X[:, 0].tolist()
    for rows, labels in ((x, y), (held_x, held_y)):
        assert torch.equal(labels, (rows[:, 0] // 2).long() % 3)  # rows and labels stay together
    assert ("DataLoader" in source.info.note) == (name == "loader")


@pytest.mark.parametrize("name", PAIRS)
def test_the_second_of_two_parts_is_held_out(name):
    source = made(PAIRS[name])
    assert (source.n_train, source.n_eval) == (24, 6)
    x, _ = source.batch(0, 24, 1)
    held, _ = source.eval_batches(6, 1)[0]
    if name != "split":
        assert sorted(held[:, 0].tolist()) == X[24:, 0].tolist()
    assert not set(x[:, 0].tolist()) & set(held[:, 0].tolist())


@pytest.mark.parametrize("value", [Noisy(), (Noisy(24), Noisy(6)), loader(Noisy())])
def test_a_dataset_s_batch_is_a_function_of_seed_and_step(value):
    one, other = made(value), made(value)
    wanted = [one.batch(step, 4, 1) for step in range(9)]
    torch.manual_seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    for step in (8, 2, 5):  # in any order, from any state
        for a, b in zip(other.batch(step, 4, 1), wanted[step], strict=True):
            assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])
    assert not torch.equal(one.batch(0, 4, 2)[0], wanted[0][0])
    assert not torch.equal(one.batch(9, 4, 1)[0], wanted[0][0])
    for a, b in zip(one.eval_batches(3, 1)[0], other.eval_batches(3, 1)[0], strict=True):
        assert torch.equal(a, b)


def test_a_loader_s_collate_makes_the_batch_and_its_sampler_does_not():
    def collate(examples):
        return {"x": torch.stack([x.double() for x, _ in examples]), "n": len(examples)}

    sampler = WeightedRandomSampler([1.0] * 30, 5)
    source = made(loader(ConcatDataset([TensorDataset(X, Y)]), collate_fn=collate, sampler=sampler))
    batch = source.batch(0, 9, 1)
    assert batch["x"].shape == (9, 2) and batch["x"].dtype == torch.float32 and batch["n"] == 9
    assert source.info.kind == "none"  # the model's result, or the targets, tell the loss


def test_a_zoo_model_needs_the_number_of_classes():
    dataset = Noisy()
    with pytest.raises(ProblemError, match="wants the number of classes, which the data do not"):
        build_model(Mlp(), made(dataset).info)
    dataset.targets = Y.tolist()
    assert made(dataset).info.baseline["class_entropy"] == pytest.approx(np.log(3))
    assert build_model(Mlp(), made(dataset).info)(X).shape == (30, 3)
    regression = made(TensorDataset(X, X + 0.5))
    assert regression.info.kind == "regression" and regression.info.target_shape == (2,)


LISTED = (
    "return (x, y) or {'x': x, 'y': y}, a map-style Dataset, a DataLoader, or two of these: "
    "(training, held out)"
)


@pytest.mark.parametrize(
    "value, words",
    [
        (None, "returned None"),
        (X, "returned a Tensor"),
        (3, "returned a int"),
        ((X, X, Y), "returned a tuple of 3 (Tensor, Tensor, Tensor)"),
        ({"train": X, "test": Y}, "returned a dict of 'train', 'test'"),
        ((TensorDataset(X, Y), None), "returned a tuple of 2 (TensorDataset, NoneType)"),
        ((X, None), "y holds values of dtype object, not numbers"),
        ((["a"] * 10, [1] * 10), "x holds texts, not numbers"),
        (([[1.0], [1.0, 2.0]], [0, 1]), "x cannot be made one array"),
        (([X[0], X, X], [0, 1, 2]), "x cannot be made one array"),
        ((X, 3), "y is one number, not rows"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_everything_else_lists_what_may_be_returned(value, words):
    error = refusal(value)
    assert error.message.startswith(f"data f.py:data: {words}") and error.hint == LISTED


@pytest.mark.parametrize(
    "value, words",
    [
        (Stream(), "a Stream has no __len__ and __getitem__, and batches are drawn by index"),
        (DataLoader(Stream()), "a Stream has no __len__"),
        (DataLoader(TensorDataset(X, Y), batch_size=None), "a DataLoader with batch_size=None"),
        (TensorDataset(X[:0], Y[:0]), "the TensorDataset is empty"),
        ((X[:0], Y[:0]), "x has no rows"),
        (Noisy(0), "the Noisy is empty"),
        ((X, Y[:9]), "x has 30 rows, y has 9"),
        (((X, Y), (X[:5], Y[:4])), "held out: x has 5 rows, y has 4"),
        (((X, Y), (X[:, :1], Y)), "rows of x are float32 [2] in the training part, float32 [1] in"),
        (((X, Y), (X, Y / 2)), "rows of y are int64 [] in the training part, float32 [] in"),
        ((X, Y - 1), "y holds class -1"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_cannot_be_drawn_from(value, words):
    assert words in refusal(value).message


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, "numpy", "list"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_found_at_once(kind, bad):
    x = X.clone()
    x[5, 1] = bad
    given = {"numpy": x.numpy(), "list": x.tolist()}.get(kind) if isinstance(kind, str) else None
    for value in ((x.to(kind) if given is None else given, Y), TensorDataset(x, Y)):
        error = refusal(value)
        assert error.message == "data f.py:data: x holds 1 values that are NaN or infinite"
    assert "held out: y holds 1" in refusal(((X, X), (X, x))).message


def test_an_example_that_fails_is_named():
    class Broken(Noisy):
        def __getitem__(self, i):
            if i == 7:
                raise KeyError("gone")
            return torch.zeros(1 + (i == 9)), 0

    source = made((Broken(), Noisy()))
    with pytest.raises(ProblemError, match="example 7 cannot be read: KeyError: 'gone'"):
        source.batch(0, 30, 1)
    source._train = (torch.tensor([1, 9] * 15),)
    with pytest.raises(ProblemError, match="30 examples do not make a batch: RuntimeError: stack"):
        source.batch(0, 30, 1)


class ArrayLike:
    """As h5py's and zarr's datasets are: rows on demand, and an array where one is asked for."""

    def __init__(self, array):
        self.array = array
        self.dtype, self.shape = array.dtype, array.shape

    def __len__(self):
        return len(self.array)

    def __getitem__(self, i):
        return self.array[i]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array, dtype=dtype)


def test_a_pair_of_other_libraries_arrays_is_x_and_y():
    made = (ArrayLike(X.numpy()), ArrayLike(Y.numpy()))
    x, y = user_source(made, "d.py:f", torch.float32).batch(0, 4, 0)
    assert x.shape == (4, 2) and y.dtype == torch.int64


def test_a_length_that_cannot_be_told_is_one_line():
    class Vague(Dataset):
        def __len__(self):
            raise TypeError("sparse array length is ambiguous")

        def __getitem__(self, i):
            return X[i], Y[i]

    with pytest.raises(ProblemError, match="a Vague whose length cannot be told: sparse array"):
        user_source(Vague(), "d.py:f", torch.float32)
