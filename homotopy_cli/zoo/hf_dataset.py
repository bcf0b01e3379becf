"""A Hugging Face dataset that `save_to_disk` wrote. Needs the extra `datasets`.

    text: COLUMN          all texts in a row, as tokens of one text
    x: COLUMN of texts    each text as one row of tokens, padded; y is its class
    x: COLUMN of images   (channels, height, width), pixels in [0, 1]; all of one size
    x: COLUMN of numbers  as they are

A folder with the splits `train` and `val` keeps them apart; otherwise a share is held out.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from homotopy_cli.errors import ProblemError, first_line
from homotopy_cli.recipe.datasets import HfDatasetData
from homotopy_cli.recipe.named_files import HOW
from homotopy_cli.recipe.values import closest
from homotopy_cli.zoo.data import DataSource, Rows, split_rows
from homotopy_cli.zoo.extras import extra
from homotopy_cli.zoo.files import find
from homotopy_cli.zoo.npz import array_rows, to_tensor
from homotopy_cli.zoo.text import token_text
from homotopy_cli.zoo.vocabulary import build_vocabulary

_HINT = HOW["hf_dataset"]


def build_hf_dataset(
    spec: HfDatasetData, base_dir: Path | str | None, dtype: torch.dtype
) -> DataSource:
    """Rows, or the windows of a text.

    Raises:
        ProblemError: The extra is missing, no such folder, not a dataset, or a column that is
            not there or cannot be trained on.
    """
    with extra("datasets", library="datasets", wanted_by="data hf_dataset"):
        import datasets
    folder = find(spec.path, base_dir, what="data folder", how=_HINT)
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # a library's loader: many kinds
        said = first_line(error)
        raise ProblemError(f"{spec.path}: is not a saved dataset ({said})", hint=_HINT) from error
    train, held_out = _parts(loaded, spec)
    if spec.text is not None:
        texts = ["\n".join(_texts(part, spec.text, spec)) for part in (train, held_out) if part]
        return token_text(
            texts[0],
            spec,
            base_dir,
            origin=spec.path,
            held_out=texts[1] if len(texts) > 1 else None,
        )
    parts = [part for part in (train, held_out) if part is not None]
    y = torch.cat([_numbers(part, spec.y, spec, dtype) for part in parts])
    if held_out is None:
        split = split_rows(len(y), spec.holdout)
    else:
        split = torch.arange(len(train)), torch.arange(len(train), len(y))
    if _is_text(train, spec.x, spec):
        return _labelled_texts(parts, y, split, spec, base_dir)
    x = torch.cat([_inputs(part, spec, dtype) for part in parts])
    return array_rows(x, y, split=split, origin=spec.path, names=(spec.x, spec.y))


def _parts(loaded: Any, spec: HfDatasetData) -> tuple[Any, Any]:
    """(training, held out or None)."""
    if not hasattr(loaded, "keys"):
        return loaded, None
    if spec.train not in loaded:
        raise ProblemError(
            f"{spec.path}: has no split {spec.train!r}; it has {', '.join(loaded)}",
            hint=f"--set data.train={next(iter(loaded), 'NAME')}",
        )
    return loaded[spec.train], loaded.get(spec.val)


def _feature(part: Any, column: str, spec: HfDatasetData) -> Any:
    if column not in part.features:
        near = closest(column, part.features)
        raise ProblemError(
            f"{spec.path}: has no column {column!r}; it has {', '.join(part.features)}",
            hint=f"did you mean {near!r}?" if near else "--set data.x=COLUMN --set data.y=COLUMN",
        )
    return part.features[column]


def _is_text(part: Any, column: str, spec: HfDatasetData) -> bool:
    return getattr(_feature(part, column, spec), "dtype", "") in ("string", "large_string")


def _texts(part: Any, column: str, spec: HfDatasetData) -> list[str]:
    if not _is_text(part, column, spec):
        raise ProblemError(
            f"{spec.path}: column {column!r} holds no text", hint="--set data.text=COLUMN"
        )
    return [text or "" for text in part[:][column]]


def _numbers(part: Any, column: str, spec: HfDatasetData, dtype: torch.dtype) -> Tensor:
    _feature(part, column, spec)
    where = f"{spec.path}: {column}"
    array = np.asarray(part.with_format("numpy")[:][column])
    if array.dtype == object:
        raise ProblemError(
            f"{where} has rows of different shapes, or missing values",
            hint="every row has the same shape",
        )
    return to_tensor(array, where, dtype)


def _inputs(part: Any, spec: HfDatasetData, dtype: torch.dtype) -> Tensor:
    """Numbers as they are; images as (n, channels, height, width) in [0, 1]."""
    if type(_feature(part, spec.x, spec)).__name__ != "Image":
        return _numbers(part, spec.x, spec, dtype)
    grey = all(image.mode in ("1", "L") for image in part[:][spec.x])
    mode = "L" if grey else "RGB"
    images = [np.asarray(image.convert(mode)) for image in part[:][spec.x]]
    shapes = sorted({image.shape[:2] for image in images})
    if len(shapes) > 1:
        raise ProblemError(
            f"{spec.path}: {spec.x} has images of {len(shapes)} sizes, {shapes[0]} to {shapes[-1]}",
            hint="resize them, or save them as files and use {name: image_folder}",
        )
    pixels = torch.from_numpy(np.stack(images)).to(dtype) / 255
    return pixels[:, None] if grey else pixels.permute(0, 3, 1, 2).contiguous()


def _labelled_texts(
    parts: list[Any],
    y: Tensor,
    split: tuple[Tensor, Tensor],
    spec: HfDatasetData,
    base_dir: Path | str | None,
) -> Rows:
    """Texts as rows of `context` tokens: cut, or filled up with the padding token."""
    texts = [text for part in parts for text in _texts(part, spec.x, spec)]
    seen = "\n".join(texts[i] for i in split[0].tolist())
    vocabulary = build_vocabulary(spec, "\n".join(texts), seen, base_dir)
    size, pad = vocabulary.size, vocabulary.pad
    if pad is None:
        size, pad = size + 1, size
    rows = torch.full((len(texts), spec.context), pad)
    for row, text in zip(rows, texts, strict=True):
        tokens = vocabulary.encode(text)[: spec.context]
        row[: len(tokens)] = tokens
    source = array_rows(rows, y, split=split, origin=spec.path, names=(spec.x, spec.y))
    source.info = replace(source.info, vocab_size=size, context=spec.context, pad=pad)
    return source
