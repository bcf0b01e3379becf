"""CIFAR-10 in both official layouts, and what a damaged or hostile folder leads to."""

import io
import pickle

import numpy as np
import pytest
import torch

from homotopy_cli.errors import ProblemError
from homotopy_cli.recipe.datasets import Cifar10Data
from homotopy_cli.zoo.registry import build_data


def refusal(spec, base_dir) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        build_data(spec, base_dir)
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2
    return caught.value


def _records(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    records = rng.integers(0, 256, size=(n, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(n) % 10
    return records


@pytest.fixture
def cifar(tmp_path):
    """Both official layouts with the same 40 + 20 images."""
    parts = {"data_batch_1": _records(20, 1), "data_batch_2": _records(20, 2)}
    parts["test_batch"] = _records(20, 3)
    for layout in ("bin", "py"):
        (tmp_path / layout).mkdir()
    for name, records in parts.items():
        records.tofile(tmp_path / "bin" / f"{name}.bin")
        content = {b"labels": records[:, 0].tolist(), b"data": records[:, 1:].copy()}
        (tmp_path / "py" / name).write_bytes(pickle.dumps(content, protocol=2))
    return tmp_path


def test_both_cifar_layouts_give_the_same_images(cifar):
    binary, python = (build_data(Cifar10Data(path=p), cifar) for p in ("bin", "py"))
    assert (binary.n_train, binary.n_eval) == (40, 20)
    assert binary.info.n_classes == 10
    assert binary.info.description == "CIFAR-10: 40 training images, 20 held out"
    for a, b in zip(binary.batch(0, 16, 1), python.batch(0, 16, 1), strict=True):
        assert torch.equal(a, b)
    records = _records(20, 3)
    images, labels = binary.eval_batches(20, 1)[0]
    assert torch.equal(labels, torch.arange(20) % 10)
    pixels = records[:, 1:].reshape(20, 3, 32, 32) / 255  # NumPy, from the layout's description
    mean = np.array([0.4914, 0.4822, 0.4465]).reshape(3, 1, 1)
    std = np.array([0.2470, 0.2435, 0.2616]).reshape(3, 1, 1)
    torch.testing.assert_close(
        images.double(), torch.from_numpy((pixels - mean) / std), atol=1e-5, rtol=0
    )


def test_cifar_sizes_and_flips(cifar):
    small = build_data(Cifar10Data(path="bin", train_size=8, eval_size=4), cifar)
    assert (small.n_train, small.n_eval) == (8, 4)
    plain = build_data(Cifar10Data(path="bin"), cifar)
    flipped = build_data(Cifar10Data(path="bin", flip=True), cifar)
    (a, y), (b, z) = plain.batch(0, 40, 1), flipped.batch(0, 40, 1)
    assert torch.equal(y, z)
    same = [torch.equal(p, q) for p, q in zip(a, b, strict=True)]
    mirrored = [torch.equal(p.flip(-1), q) for p, q in zip(a, b, strict=True)]
    assert all(s != m for s, m in zip(same, mirrored, strict=True))
    assert 8 <= sum(mirrored) <= 32  # 20 expected; 12 is 3.8 standard deviations
    assert torch.equal(flipped.batch(0, 40, 1)[0], b)
    assert torch.equal(plain.eval_batches(20, 1)[0][0], flipped.eval_batches(20, 1)[0][0])


def test_cifar_crops_move_training_images_only(cifar):
    plain = build_data(Cifar10Data(path="bin"), cifar)
    cropped = build_data(Cifar10Data(path="bin", crop=4), cifar)
    (a, y), (b, z) = plain.batch(3, 40, 1), cropped.batch(3, 40, 1)
    assert torch.equal(y, z)
    assert sum(torch.equal(p, q) for p, q in zip(a, b, strict=True)) < 5  # 40/81 expected
    assert torch.equal(cropped.batch(3, 40, 1)[0], b)
    assert torch.equal(plain.eval_batches(20, 1)[0][0], cropped.eval_batches(20, 1)[0][0])


def test_cifar_faults(cifar):
    spec = Cifar10Data(path="bin")
    file = cifar / "bin" / "data_batch_1.bin"
    file.write_bytes(file.read_bytes()[:-5])
    assert "are not whole records of 3073: truncated?" in refusal(spec, cifar).message
    bad = _records(4, 0)
    bad[2, 0] = 77
    bad.tofile(file)
    assert "label 77 in data_batch_*" in refusal(spec, cifar).message
    (cifar / "bin" / "test_batch.bin").unlink()
    _records(4, 0).tofile(file)
    assert refusal(spec, cifar).message == "bin: holds no test_batch*"
    assert refusal(Cifar10Data(path="b"), cifar).message.startswith(
        "b: no such data folder; looked"
    )
    assert (
        "is a file, not a folder"
        in refusal(Cifar10Data(path="bin/data_batch_1.bin"), cifar).message
    )


class _Harmful:
    def __reduce__(self):
        import os

        return os.system, ("touch PWNED.txt",)


def test_a_pickled_cifar_batch_cannot_run_code(cifar, monkeypatch):
    monkeypatch.chdir(cifar)
    (cifar / "py" / "data_batch_1").write_bytes(pickle.dumps({b"data": _Harmful()}))
    error = refusal(Cifar10Data(path="py"), cifar)
    assert error.message == "the pickle names posix.system, which is refused"
    assert not (cifar / "PWNED.txt").exists()
    buffer = io.BytesIO()
    pickle.dump([1, 2], buffer)
    (cifar / "py" / "data_batch_1").write_bytes(buffer.getvalue())
    assert "is not a batch of CIFAR-10" in refusal(Cifar10Data(path="py"), cifar).message
