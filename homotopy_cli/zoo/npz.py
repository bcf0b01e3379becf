"""Arrays of an .npz file, read without pickle."""

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from homotopy_cli.errors import ProblemError, first_line
from homotopy_cli.recipe.datasets import NpzData
from homotopy_cli.recipe.named_files import HOW
from homotopy_cli.zoo.data import DataInfo, Rows, class_entropy, split_rows
from homotopy_cli.zoo.files import find, read

_HOW = HOW["npz"]


def build_npz(spec: NpzData, base_dir: Path | str | None, dtype: torch.dtype) -> Rows:
    """Rows of two arrays: integer targets are classes, floating targets are regressed.

    Raises:
        ProblemError: Missing or broken file, missing array, or values that cannot be trained on.
    """
    file = find(spec.path, base_dir, how=_HOW)
    arrays = _load(file, spec)
    x, y = (to_tensor(arrays[name], f"{spec.path}: {name}", dtype) for name in (spec.x, spec.y))
    return array_rows(x, y, holdout=spec.holdout, origin=spec.path, names=(spec.x, spec.y))


def array_rows(
    x: Tensor,
    y: Tensor,
    *,
    origin: str,
    holdout: float = 0.0,
    split: tuple[Tensor, Tensor] | None = None,
    names: tuple[str, str] = ("x", "y"),
) -> Rows:
    """Rows of (x, y), checked, with a fixed part held out.

    Args:
        x, y: Row i of both is example i.
        origin: How messages and the description name them.
        holdout: Share that is held out, by a fixed shuffle.
        split: Row numbers (training, held out), instead of a share.
        names: How messages call x and y.

    Raises:
        ProblemError: Row counts differ, no row, or a negative class.
    """
    for tensor, name in zip((x, y), names, strict=True):
        if tensor.ndim == 0 or len(tensor) == 0:
            raise ProblemError(f"{origin}: {name} has no rows", hint="one example per row")
    if len(x) != len(y):
        raise ProblemError(
            f"{origin}: {names[0]} has {len(x)} rows, {names[1]} has {len(y)}",
            hint="row i of both is example i",
        )
    if not y.is_floating_point() and y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    train, held_out = split or split_rows(len(x), holdout)
    info = _describe(x, y, len(held_out), origin, names[1])
    return Rows(info, (x[train], y[train]), (x[held_out], y[held_out]))


def _describe(x: Tensor, y: Tensor, n_held_out: int, origin: str, y_name: str) -> DataInfo:
    tail = f"{n_held_out} held out" if n_held_out else "none held out: evaluated on training rows"
    shape = tuple(x.shape[1:])
    if y.is_floating_point():
        variance = float(y.double().var(unbiased=False))
        return DataInfo(
            kind="regression",
            description=f"{origin}: {len(x)} rows of shape {list(shape)}, {tail}",
            input_shape=shape,
            target_shape=tuple(y.shape[1:]),
            baseline={"variance": variance},
        )
    if int(y.min()) < 0:
        raise ProblemError(
            f"{origin}: {y_name} holds class {int(y.min())}", hint="classes count from 0"
        )
    n_classes = int(y.max()) + 1
    return DataInfo(
        kind="classes",
        description=f"{origin}: {len(x)} rows of shape {list(shape)}, {n_classes} classes, {tail}",
        n_classes=n_classes,
        input_shape=shape,
        target_shape=tuple(y.shape[1:]),
        baseline={"class_entropy": class_entropy(y)},
    )


def _load(file: Path, spec: NpzData) -> dict[str, np.ndarray]:
    raw = read(file)
    if raw[:4] != b"PK\x03\x04":
        raise ProblemError(
            f"{spec.path}: is not an .npz file", hint="numpy.savez('data.npz', x=x, y=y)"
        )
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
            for name in (spec.x, spec.y):
                if name not in archive.files:
                    held = ", ".join(archive.files) or "nothing"
                    key = "x" if name == spec.x else "y"
                    raise ProblemError(
                        f"{spec.path}: has no array {name!r}; it holds {held}",
                        hint=f"data: {{name: npz, path: {spec.path}, {key}: NAME}}",
                    )
            return {name: archive[name] for name in (spec.x, spec.y)}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error):
            raise ProblemError(
                f"{spec.path}: holds Python objects, which are not read",
                hint="save plain arrays: numpy.savez('data.npz', x=x, y=y)",
            ) from error
        raise ProblemError(
            f"{spec.path}: is truncated or damaged ({first_line(error)})",
            hint="write the file again",
        ) from error


def to_tensor(array: np.ndarray, where: str, dtype: torch.dtype) -> Tensor:
    """Floats in `dtype`, whole numbers as int64.

    Raises:
        ProblemError: Not finite, or neither of these.
    """
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            n = int((~np.isfinite(array)).sum())
            raise ProblemError(
                f"{where} holds {n} values that are NaN or infinite", hint="remove those rows"
            )
        return torch.from_numpy(array.astype(np.float64)).to(dtype)
    if array.dtype.kind in "iub":
        return torch.from_numpy(array.astype(np.int64))
    raise ProblemError(f"{where} has dtype {array.dtype}", hint="integers or floats")
