"""Batch files of every kind, recognised by content and read without running code."""

import argparse
import builtins
import os

import numpy as np
import pytest
import torch
from foreign_checkpoints import Evil, save
from safetensors.torch import save_file

from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.batches import cast_floats, read_batches

X, Y = torch.arange(12.0).reshape(4, 3), torch.tensor([0, 1, 2, 0])


def load_batches(paths):
    return [batch for _, batch in read_batches(paths)]


def same(left, right):
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    return type(left) is type(right) and all(map(same, left, right))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "batch", [X, (X, Y), (X,), {"x": X, "labels": Y}, {"a": (X, Y), "b": X}, [X, Y]]
)
def test_pt_holds_one_batch(tmp_path, batch, legacy):
    (found,) = load_batches([save(tmp_path / "b.pt", batch, legacy)])
    assert same(found, batch)


def test_pt_with_a_list_of_batches(tmp_path):
    path = save(tmp_path / "b.pt", [(X[:3], Y[:3]), (X[3:], Y[3:])])
    found = read_batches(path)
    assert [source for source, _ in found] == [f"{path}[0]", f"{path}[1]"]
    assert same(found[1][1], (X[3:], Y[3:]))
    dicts = save(tmp_path / "d.pt", [{"x": X}, {"x": X}])
    assert len(load_batches([path, dicts])) == 4


@pytest.mark.parametrize("names", [("x", "y"), ("X", "y")])
def test_npz_and_safetensors_with_x_and_y_are_pairs(tmp_path, names):
    np.savez(tmp_path / "b.npz", **{names[0]: X.numpy(), names[1]: Y.numpy()})
    save_file({names[0]: X, names[1]: Y}, tmp_path / "b.safetensors")
    for name in ("b.npz", "b.safetensors"):
        (found,) = load_batches([tmp_path / name])
        assert same(found, (X, Y))


def test_npz_without_names_and_with_others(tmp_path):
    np.savez(tmp_path / "a.npz", X.numpy(), Y.numpy())
    assert same(load_batches([tmp_path / "a.npz"])[0], (X, Y))
    np.savez(tmp_path / "b.npz", input_ids=Y.numpy(), mask=X.numpy() > 2)
    assert same(load_batches([tmp_path / "b.npz"])[0], {"input_ids": Y, "mask": X > 2})
    np.save(tmp_path / "c.npy", X.numpy())
    assert same(load_batches([tmp_path / "c.npy"])[0], X)


def test_npz_of_foreign_byte_order_and_layout(tmp_path):
    array = np.asfortranarray(X.numpy().astype(">f4"))
    np.savez(tmp_path / "a.npz", x=array, y=Y.numpy())
    assert same(load_batches([tmp_path / "a.npz"])[0], (X, Y))


def test_casting_leaves_integers_and_structure():
    batch = {"x": X, "ids": Y, "mask": X > 2, "pair": (X, [Y])}
    found = cast_floats(batch, torch.float64)
    assert found["x"].dtype == found["pair"][0].dtype == torch.float64
    assert found["ids"] is Y
    assert found["mask"].dtype == torch.bool
    assert isinstance(found["pair"], tuple)
    assert isinstance(found["pair"][1], list)


def message(path):
    with pytest.raises(ProblemError) as caught:
        load_batches([path])
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message


def test_files_that_are_no_batch(tmp_path):
    assert "no such file" in message(tmp_path / "no.pt")
    assert "is a folder, not a batch file" in message(tmp_path)
    (tmp_path / "empty.pt").write_bytes(b"")
    assert message(tmp_path / "empty.pt") == f"{tmp_path / 'empty.pt'}: is empty (0 bytes)"
    (tmp_path / "text.pt").write_bytes(b"x,y\n1,2\n")
    assert "is not a batch file: its first bytes are" in message(tmp_path / "text.pt")
    assert "holds no tensor to measure on" in message(save(tmp_path / "n.pt", {"epoch": 3}))
    whole = save(tmp_path / "w.pt", (X, Y)).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[:-100])
    assert "truncated or incomplete" in message(tmp_path / "cut.pt")
    np.savez(tmp_path / "o.npz", x=np.array([{}, {}], dtype=object), y=Y.numpy())
    assert "holds Python objects, not numbers" in message(tmp_path / "o.npz")
    np.savez(tmp_path / "s.npz", x=np.array(["a", "b"]), y=Y.numpy())
    assert "dtype <U1 is not numbers" in message(tmp_path / "s.npz")


def test_hostile_batches_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = Evil(builtins.exec, "open('PWNED.txt', 'w').write('x')")
    path = save(tmp_path / "b.pt", (X, evil))
    assert message(path) == (
        f"{path}: refused: the pickle calls builtins.exec, which would run code"
    )
    assert "PWNED.txt" not in os.listdir(tmp_path)


def test_objects_in_batches_are_named(tmp_path):
    path = save(tmp_path / "b.pt", (X, argparse.Namespace(y=Y)))
    assert message(path) == (
        f"{path}: holds an object of class argparse.Namespace, which is not read without code"
    )


@pytest.mark.parametrize("nested", [False, True])
def test_weights_are_no_batch(tmp_path, nested):
    weights = {"fc.weight": torch.ones(3, 2), "fc.bias": torch.ones(3)}
    path = save(tmp_path / "sd.pt", {"model": weights} if nested else weights)
    with pytest.raises(ProblemError, match=r"fc\.weight.* and 1 more\), not a batch") as caught:
        read_batches(path)
    assert caught.value.hint.startswith(f"homotopy probe {path} measures them")
    weighted = {"x": X, "y": Y, "weight": torch.ones(4)}
    assert load_batches(save(tmp_path / "b.pt", weighted))
