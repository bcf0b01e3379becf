"""Images in folders, one folder per class: ROOT/CLASS/*.png or ROOT/{train,val}/CLASS/*.png.

Needs the extra `images` (Pillow). Files are listed in the order of their names, so the same
folder gives the same examples on every machine; each image is decoded when it is drawn. What is
random about an image depends on (seed, step) alone.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from homotopy_cli.errors import ProblemError, first_line
from homotopy_cli.recipe.datasets import ImageFolderData
from homotopy_cli.recipe.named_files import HOW
from homotopy_cli.zoo.ahead import RowsAhead
from homotopy_cli.zoo.augment import crop_box, flipped
from homotopy_cli.zoo.data import Batch, DataInfo, Rows, class_entropy, split_rows
from homotopy_cli.zoo.extras import extra
from homotopy_cli.zoo.files import find

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
# Per-channel mean and standard deviation of ImageNet's training images, of pixels in [0, 1].
_MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
_LAYOUT = HOW["image_folder"]
Job = tuple[Path, str, Sequence[float]]  # file, kind of crop, four draws from [0, 1)


def build_image_folder(
    spec: ImageFolderData, base_dir: Path | str | None, dtype: torch.dtype
) -> Rows:
    """Images (B, 3, size, size), scaled by ImageNet's mean and deviation; labels by folder.

    Raises:
        ProblemError: The extra is missing, no such folder, no image in it, or a damaged one.
    """
    with extra("images", library="Pillow", wanted_by="data image_folder"):
        from PIL import Image
    root = find(spec.path, base_dir, what="data folder", how=_LAYOUT)
    if not root.is_dir():
        raise ProblemError(f"{spec.path}: is a file, not a folder", hint=_LAYOUT)
    parted = (root / spec.train).is_dir()
    train_root = root / spec.train if parted else root
    classes = _folders(train_root)[: spec.max_classes]
    files, labels = _listing(train_root, classes, spec.max_per_class)
    if not files:
        raise ProblemError(
            f"{spec.path}: holds no image ({', '.join(SUFFIXES)}) in {len(classes)} class folders",
            hint=_LAYOUT,
        )
    if parted and (root / spec.val).is_dir():
        strange = sorted(set(_folders(root / spec.val)) - set(_folders(train_root)))
        if strange:
            raise ProblemError(
                f"{spec.path}: {spec.val} has classes that {spec.train} has not: "
                f"{', '.join(strange[:3])}",
                hint="both hold the same class folders",
            )
        more, their_labels = _listing(root / spec.val, classes, spec.max_per_class)
        train, held_out = torch.arange(len(files)), len(files) + torch.arange(len(more))
        files, labels = files + more, labels + their_labels
    else:
        train, held_out = split_rows(len(files), spec.holdout)
    if spec.check:
        for path in files:
            with _explained(path), Image.open(path):
                pass
    y = torch.tensor(labels)
    tail = f"{len(held_out)} held out" if len(held_out) else "none held out"
    info = DataInfo(
        kind="classes",
        description=f"{spec.path}: {len(train)} training images, {len(classes)} classes, {tail}",
        n_classes=len(classes),
        input_shape=(3, spec.size, spec.size),
        baseline={"class_entropy": class_entropy(y[train])},
    )
    reader = _Reader(Image, files, spec, dtype)
    kind = RowsAhead if spec.workers > 1 else Rows
    return kind(info, (train, y[train]), (held_out, y[held_out]), transform=reader.batch)


class _Reader:
    """File numbers -> decoded images."""

    def __init__(
        self, image: Any, files: list[Path], spec: ImageFolderData, dtype: torch.dtype
    ) -> None:
        self._image, self._files, self._spec, self._dtype = image, files, spec, dtype
        self._pool = ThreadPoolExecutor(spec.workers) if spec.workers > 1 else None

    def batch(self, rows: tuple[Tensor, ...], generator: Generator | None) -> Batch:
        """(images, labels); without a generator the middle of each image, not mirrored."""
        numbers, labels = rows
        n, how = len(numbers), "center"
        draws = torch.zeros(n, 4)
        if generator is not None:
            draws, how = torch.rand(n, 4, generator=generator), self._spec.crop
        jobs: list[Job] = [
            (self._files[number], how, draw)
            for number, draw in zip(numbers.tolist(), draws.tolist(), strict=True)
        ]
        run = map if self._pool is None else self._pool.map
        images = torch.stack(list(run(self._read, jobs))).to(self._dtype) / 255
        if self._spec.flip and generator is not None:
            images = flipped(images, generator)
        return (images - _MEAN.to(self._dtype)) / _STD.to(self._dtype), labels

    def _read(self, job: Job) -> Tensor:
        """One image, cut and resized, (3, size, size) uint8."""
        path, how, draws = job
        size = self._spec.size
        with _explained(path), self._image.open(path) as file:
            box = crop_box(file.size, how, draws)
            bilinear = self._image.Resampling.BILINEAR
            image = file.convert("RGB").resize((size, size), bilinear, box=box)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """A file that Pillow cannot read, as one line with its name."""
    try:
        yield
    except (OSError, SyntaxError, ValueError) as error:
        raise ProblemError(
            f"{path}: is not an image that can be read ({first_line(error)})",
            hint="remove the file, or write it again",
        ) from error


def _folders(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _listing(root: Path, classes: list[str], limit: int | None) -> tuple[list[Path], list[int]]:
    """Image files and their class numbers, class after class, in the order of the names."""
    files: list[Path] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        folder = root / name
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        found = [p for p in found if p.suffix.lower() in SUFFIXES][:limit]
        files += found
        labels += [number] * len(found)
    return files, labels
