"""Data a recipe can name. Relative paths start at the recipe's folder; nothing is downloaded."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from homotopy_cli.recipe.values import (
    Count,
    Flag,
    Fraction,
    NonNegative,
    Share,
    Spec,
    Text,
    Whole,
    choice,
    closest,
    fault,
)

HoldOut = Annotated[
    Fraction, Field(description="share of the data kept for evaluation and for probes")
]


class TokenData(Spec):
    """How a text becomes tokens, and what is asked of them."""

    tokenizer: Text = Field(
        default="chars",
        description="chars; bpe, trained on the training part; or a folder with tokenizer.json "
        "(the last two: extra `hf`)",
    )
    vocab_size: Count = Field(default=2048, description="bpe: tokens, at least 257")
    context: Count = Field(default=64, description="tokens per example")
    objective: Literal["next", "masked"] = Field(
        default="next", description="predict each next token, or restore masked ones"
    )
    mask: Share = Field(default=0.15, description="masked: share of the tokens that is hidden")
    holdout: HoldOut = 0.1

    @model_validator(mode="after")
    def _bytes_fit(self) -> "TokenData":
        if self.tokenizer == "bpe" and self.vocab_size <= 256:
            raise fault(
                f"{self.vocab_size} is too small: BPE starts from 256 bytes",
                "vocab_size: 1024",
                ("vocab_size",),
            )
        return self


class TextData(TokenData):
    """One text, as characters or tokens; training and held-out parts are contiguous."""

    name: Literal["text"] = "text"
    path: Text | None = Field(default=None, description="a UTF-8 text file")
    source: Literal["pydoc_topics"] | None = Field(
        default=None, description="a text that comes with Python, instead of a path"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> "TextData":
        if (self.path is None) == (self.source is None):
            given = "both are" if self.path else "neither is"
            raise fault(
                f"needs either path or source, {given} given",
                "path: FILE.txt, or source: pydoc_topics",
            )
        return self


class NpzData(Spec):
    """Arrays of one .npz file, read without pickle."""

    name: Literal["npz"] = "npz"
    path: Text = Field(description="the .npz file")
    x: Text = Field(default="x", description="name of the input array, one example per row")
    y: Text = Field(default="y", description="name of the target array: int classes or floats")
    holdout: HoldOut = 0.1


class Cifar10Data(Spec):
    """CIFAR-10 in its official binary or Python layout, scaled to mean 0 and variance 1."""

    name: Literal["cifar10"] = "cifar10"
    path: Text = Field(description="folder cifar-10-batches-bin or cifar-10-batches-py")
    train_size: Count | None = Field(default=None, description="use only the first so many images")
    eval_size: Count | None = Field(default=None, description="use only the first so many")
    flip: Flag = Field(default=False, description="mirror each training image at random")
    crop: Whole = Field(
        default=0, description="pad training images by so many zeros, then cut at random"
    )


class ImageFolderData(Spec):
    """Images in one folder per class, decoded when drawn (extra `images`)."""

    name: Literal["image_folder"] = "image_folder"
    path: Text = Field(description="folder of CLASS/*.png, or of train/CLASS and val/CLASS")
    train: Text = Field(default="train", description="folder of the training images, if there")
    val: Text = Field(default="val", description="folder of the held-out images, if there")
    size: Count = Field(default=224, description="side of what the model sees, pixels")
    crop: Literal["center", "random", "resized"] = Field(
        default="random",
        description="training: the middle, a square anywhere, or 8 to 100 % of the area",
    )
    flip: Flag = Field(default=True, description="mirror each training image at random")
    max_classes: Count | None = Field(default=None, description="use only the first so many")
    max_per_class: Count | None = Field(
        default=None, description="use only the first so many images of each class"
    )
    holdout: HoldOut = 0.1
    check: Flag = Field(default=True, description="open every file once before training")
    workers: Count = Field(
        default=4, description="threads that decode, one batch ahead; 1 = only when it is needed"
    )


class DigitsData(Spec):
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels (extra `digits`)."""

    name: Literal["digits"] = "digits"
    holdout: HoldOut = 0.2


class HfDatasetData(TokenData):
    """A Hugging Face dataset saved by save_to_disk (extra `datasets`): arrays, images or text."""

    name: Literal["hf_dataset"] = "hf_dataset"
    path: Text = Field(description="folder that save_to_disk wrote")
    x: Text = Field(default="x", description="column of arrays or images, one example per row")
    y: Text = Field(default="y", description="column of targets: int classes, or floats")
    text: Text | None = Field(
        default=None, description="column of texts, instead of x; classified by y where it is given"
    )
    train: Text = Field(default="train", description="split that is trained on, if it has splits")
    val: Text = Field(default="test", description="split that is held out, if it has splits")


class QuadraticData(Spec):
    """No data: a linear tilt of the quadratic model per example, which averages to 0."""

    name: Literal["quadratic"] = "quadratic"
    noise: NonNegative = Field(
        default=0.0, description="standard deviation of each gradient component, per example"
    )


class UserData(Spec):
    """`package.module:callable` or `file.py:callable`, called with every other key."""

    model_config = ConfigDict(extra="allow")

    name: Text = Field(description="package.module:callable or file.py:callable")


DATA_SPECS: dict[str, type[Spec]] = {
    "text": TextData,
    "npz": NpzData,
    "cifar10": Cifar10Data,
    "image_folder": ImageFolderData,
    "digits": DigitsData,
    "hf_dataset": HfDatasetData,
    "quadratic": QuadraticData,
}


def _data(value: Any) -> Any:
    """Text is a .npz file, a target, or the name of data that need no settings."""
    if not isinstance(value, str) or ":" in value or value.lower().endswith(".npz"):
        return value
    if value in DATA_SPECS:
        return {"name": value}
    if value.lower().endswith((".txt", ".md", ".text")):
        raise fault(f"{value!r} is not a .npz file", f"{{name: text, path: {value}}}")
    near = closest(value, DATA_SPECS)
    hint = f"did you mean {near!r}?" if near else f"one of {', '.join(DATA_SPECS)}, or data.npz"
    raise fault(f"{value!r} is neither a kind of data, a .npz file nor file.py:callable", hint)


DataSpec = choice(DATA_SPECS, user=UserData)
Data = Annotated[choice(DATA_SPECS, user=UserData, target=True), BeforeValidator(_data)]
