"""CIFAR-10 (Krizhevsky 2009), from the folders its author distributes. Nothing is downloaded.

    cifar-10-batches-bin   data_batch_*.bin, test_batch.bin: records of 1 label, 3072 pixels
    cifar-10-batches-py    data_batch_*, test_batch: pickles of NumPy arrays, read with an
                           unpickler that knows arrays and dictionaries and refuses all else

Batches that are missing from the folder are simply not used: the description says how many
images there are.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from homotopy_cli.errors import ProblemError
from homotopy_cli.recipe.datasets import Cifar10Data
from homotopy_cli.recipe.named_files import HOW
from homotopy_cli.zoo.augment import flipped, shifted
from homotopy_cli.zoo.data import Batch, DataInfo, Rows
from homotopy_cli.zoo.files import find, read

SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32
# Per-channel mean and standard deviation of the 50,000 training images, of pixels in [0, 1].
_MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).reshape(3, 1, 1)
_STD = torch.tensor([0.2470, 0.2435, 0.2616]).reshape(3, 1, 1)
_HINT = HOW["cifar10"]


def build_cifar10(spec: Cifar10Data, base_dir: Path | str | None, dtype: torch.dtype) -> Rows:
    """Images as (B, 3, 32, 32) of mean 0 and variance 1, labels 0..9.

    Raises:
        ProblemError: No such folder, not this layout, or a damaged file.
    """
    folder = find(spec.path, base_dir, what="data folder", how=_HINT)
    if not folder.is_dir():
        raise ProblemError(f"{spec.path}: is a file, not a folder", hint=_HINT)
    train = _part(folder, "data_batch_*", spec.path)[: spec.train_size]
    held_out = _part(folder, "test_batch*", spec.path)[: spec.eval_size]
    info = DataInfo(
        kind="classes",
        description=f"CIFAR-10: {len(train)} training images, {len(held_out)} held out",
        n_classes=10,
        input_shape=SHAPE,
        baseline={"class_entropy": float(np.log(10))},
    )

    def transform(rows: tuple[Tensor, ...], generator: torch.Generator | None) -> Batch:
        (records,) = rows
        images = records[:, 1:].reshape(-1, *SHAPE).to(dtype) / 255
        images = (images - _MEAN.to(dtype)) / _STD.to(dtype)
        if generator is not None:
            images = flipped(images, generator) if spec.flip else images
            images = shifted(images, spec.crop, generator) if spec.crop else images
        return images, records[:, 0].long()

    return Rows(info, (train,), (held_out,), transform=transform)


def _part(folder: Path, pattern: str, name: str) -> Tensor:
    """Records (n, 3073) uint8 of every file of one part, in the files' order."""
    files = [p for p in sorted(folder.glob(pattern)) if p.suffix in (".bin", "")]
    if not files:
        raise ProblemError(f"{name}: holds no {pattern}", hint=_HINT)
    parts = [_binary(p) if p.suffix == ".bin" else _python(p) for p in files]
    records = np.concatenate(parts)
    if records[:, 0].max() > 9:
        raise ProblemError(
            f"{name}: label {records[:, 0].max()} in {pattern}, CIFAR-10 has 0..9",
            hint="CIFAR-100 has another layout; this is for CIFAR-10",
        )
    return torch.from_numpy(records)


def _binary(path: Path) -> np.ndarray:
    raw = read(path)
    if len(raw) % _RECORD:
        raise ProblemError(
            f"{path}: {len(raw)} bytes are not whole records of {_RECORD}: truncated?", hint=_HINT
        )
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, _RECORD).copy()


def _python(path: Path) -> np.ndarray:
    try:
        content = _ArraysOnly(io.BytesIO(read(path)), encoding="bytes").load()
        pixels = np.asarray(content[b"data"], dtype=np.uint8)
        labels = np.asarray(content[b"labels"], dtype=np.uint8)
        return np.concatenate([labels[:, None], pixels.reshape(len(labels), -1)], axis=1)
    except ProblemError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        raise ProblemError(
            f"{path}: is not a batch of CIFAR-10 ({type(error).__name__})", hint=_HINT
        ) from error


class _ArraysOnly(pickle.Unpickler):
    """Resolves what a pickled NumPy array needs; any other global is refused, never called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("._core", ".core"), name) == ("numpy.core.multiarray", "_reconstruct"):
            return np._core.multiarray._reconstruct
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode(encoding)
        raise ProblemError(
            f"the pickle names {module}.{name}, which is refused",
            hint="use the binary layout: data.path=cifar-10-batches-bin",
        )
