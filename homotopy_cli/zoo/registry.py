"""A recipe's `model` and `data` sections -> the objects they name."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from homotopy_cli.errors import HomotopyError, ProblemError, first_line
from homotopy_cli.recipe import datasets, models
from homotopy_cli.recipe.targets import load_target
from homotopy_cli.zoo.cifar import build_cifar10
from homotopy_cli.zoo.data import DataInfo, DataSource
from homotopy_cli.zoo.digits import build_digits
from homotopy_cli.zoo.encoder import Encoder, VisionTransformer, patch_for
from homotopy_cli.zoo.gpt import GPT
from homotopy_cli.zoo.hf import build_hf
from homotopy_cli.zoo.hf_dataset import build_hf_dataset
from homotopy_cli.zoo.image_folder import build_image_folder
from homotopy_cli.zoo.mlp import MLP
from homotopy_cli.zoo.npz import build_npz
from homotopy_cli.zoo.quadratic import Quadratic
from homotopy_cli.zoo.residual import DeepResNet, stem_for
from homotopy_cli.zoo.resnet import ResNet
from homotopy_cli.zoo.synthetic import build_quadratic_rows
from homotopy_cli.zoo.text import build_text
from homotopy_cli.zoo.user_data import user_source


def build_model(spec: Any, data_info: DataInfo, *, base_dir: Path | str | None = None) -> nn.Module:
    """The model of a recipe, freshly initialised from torch's global generator.

    Args:
        spec: `recipe.model`: settings of a zoo model, or the target of a callable.
        data_info: Sizes that the data fix.
        base_dir: Where a relative target starts.

    Raises:
        ProblemError: The model does not fit the data, or the callable gave no module.
    """
    if isinstance(spec, str | models.UserModel):
        return _user_model(spec, base_dir)
    if isinstance(spec, models.Hf):
        return build_hf(spec, data_info, base_dir)
    if isinstance(spec, models.Gpt | models.Encoder):
        return _transformer(spec, data_info)
    if isinstance(spec, models.Vit):
        _, n_classes = _images(spec, data_info)
        return _vit(spec, data_info.input_shape, n_classes)
    if isinstance(spec, models.ResNet):
        n_channels, n_classes = _images(spec, data_info)
        return ResNet(spec.depth, spec.width, n_channels, n_classes)
    if isinstance(spec, models.ResNet18 | models.ResNet34 | models.ResNet50):
        n_channels, n_classes = _images(spec, data_info)
        depth = int(spec.name.removeprefix("resnet"))
        settings = {**spec.settings(), "stem": stem_for(spec.stem, data_info.input_shape)}
        return DeepResNet(depth, n_channels, n_classes, **settings)
    if isinstance(spec, models.Quadratic):
        _needs(spec, data_info, "none")
        return Quadratic(**spec.settings(), noise=data_info.noise, n_rows=data_info.n_rows)
    _needs(spec, data_info, "classes", "regression")
    n_inputs = int(torch.Size(data_info.input_shape).numel())
    classes = data_info.kind == "classes"
    output_shape = (data_info.n_classes,) if classes else data_info.target_shape
    return MLP(
        n_inputs, spec.hidden, output_shape, activation=spec.activation, dropout=spec.dropout
    )


def build_data(
    spec: Any,
    base_dir: Path | str | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> DataSource:
    """The data of a recipe.

    Args:
        spec: `recipe.data`: settings, a .npz path, or the target of a callable.
        base_dir: Where relative paths start.
        dtype: Of floating inputs and targets.

    Raises:
        ProblemError: Missing, damaged or unusable data.
    """
    if isinstance(spec, str) and ":" not in spec:
        spec = datasets.NpzData(path=spec)
    if isinstance(spec, str | datasets.UserData):
        target = spec if isinstance(spec, str) else spec.name
        return user_source(_call(spec, base_dir, "data"), target, dtype)
    if isinstance(spec, datasets.TextData):
        return build_text(spec, base_dir)
    if isinstance(spec, datasets.NpzData):
        return build_npz(spec, base_dir, dtype)
    if isinstance(spec, datasets.Cifar10Data):
        return build_cifar10(spec, base_dir, dtype)
    if isinstance(spec, datasets.ImageFolderData):
        return build_image_folder(spec, base_dir, dtype)
    if isinstance(spec, datasets.DigitsData):
        return build_digits(spec, dtype)
    if isinstance(spec, datasets.HfDatasetData):
        return build_hf_dataset(spec, base_dir, dtype)
    return build_quadratic_rows(spec)


def _transformer(spec: Any, info: DataInfo) -> nn.Module:
    """A model over tokens: `gpt` or `encoder`."""
    if isinstance(spec, models.Gpt):
        _needs(spec, info, "tokens")
        context = spec.context or info.context
        if context < info.context:
            raise ProblemError(
                f"model.context {context} is shorter than data.context {info.context}",
                hint=f"--set data.context={context}",
            )
        return GPT(info.vocab_size, **{**spec.settings(), "context": context})
    _needs(spec, info, "masked", "classes")
    if not info.vocab_size:
        raise ProblemError(
            f"model encoder wants tokens, the data are {info.kind}: {info.description}",
            hint="model: {name: vit} for images, {name: mlp} for rows of numbers",
        )
    pooled = info.kind == "classes"
    return Encoder(
        info.vocab_size,
        info.n_classes if pooled else info.vocab_size,
        pooled=pooled,
        pad=info.pad,
        context=info.context,
        **spec.settings(),
    )


def _vit(spec: models.Vit, shape: tuple[int, ...], n_classes: int) -> nn.Module:
    patch = patch_for(spec.patch, shape)
    if any(side % patch for side in shape[1:]):
        raise ProblemError(
            f"model.patch {patch} does not divide images of {shape[1]}x{shape[2]} pixels",
            hint=f"--set model.patch={math.gcd(*shape[1:])}",
        )
    return VisionTransformer(shape, n_classes, **{**spec.settings(), "patch": patch})


def _images(spec: Any, info: DataInfo) -> tuple[int, int]:
    """(channels, classes) of data that are images."""
    _needs(spec, info, "classes")
    if len(info.input_shape) != 3:
        raise ProblemError(
            f"{spec.name} wants images (channels, height, width), the data have shape "
            f"{list(info.input_shape)}",
            hint="--set model=mlp",
        )
    return info.input_shape[0], info.n_classes


def _needs(spec: Any, info: DataInfo, *kinds: str) -> None:
    if info.kind not in kinds:
        fitting = {
            "tokens": "gpt",
            "masked": "encoder",
            "classes": "mlp or resnet",
            "regression": "mlp",
            "none": "quadratic",
        }[info.kind]
        raise ProblemError(
            f"model {spec.name} wants {' or '.join(kinds)}, the data are {info.kind}: "
            f"{info.description}",
            hint=f"model: {{name: {fitting.split()[0]}}} fits these data",
        )
    if info.kind == "classes" and not info.n_classes:
        raise ProblemError(
            f"model {spec.name} wants the number of classes, which the data do not tell: "
            f"{info.description}",
            hint="give the dataset an attribute `targets`, every label, or `classes`, their names",
        )


def _call(spec: Any, base_dir: Path | str | None, section: str) -> Any:
    """What the user's callable returns, with its own errors as one line."""
    target = spec if isinstance(spec, str) else spec.name
    made = load_target(target, base_dir)
    settings = {} if isinstance(spec, str) else spec.settings()
    if not callable(made):
        raise ProblemError(
            f"{section} {target}: is a {type(made).__name__}, not a callable",
            hint=f"def {target.rpartition(':')[2]}(): return ...",
        )
    try:
        return made(**settings)
    except HomotopyError:
        raise
    except Exception as error:
        raise ProblemError(
            f"{section} {target}: failed: {first_line(error, named=True)}",
            hint="--debug shows the whole traceback",
        ) from error


def _user_model(spec: Any, base_dir: Path | str | None) -> nn.Module:
    target = spec if isinstance(spec, str) else spec.name
    model = _call(spec, base_dir, "model")
    if not isinstance(model, nn.Module):
        raise ProblemError(
            f"model {target}: returned {type(model).__name__}, not a torch.nn.Module",
            hint="the callable builds and returns the model",
        )
    return model
