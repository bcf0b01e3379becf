"""Models a recipe can name. Sizes that the data fix (classes, vocabulary) are not asked for."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from homotopy_cli.recipe.values import (
    Count,
    Flag,
    Fraction,
    Positive,
    Real,
    Spec,
    Text,
    choice,
    closest,
    fault,
    shown,
)


def _heads_divide_width(spec: Any) -> Any:
    if spec.width % spec.heads:
        raise fault(
            f"{spec.width} is not divisible by {spec.heads} heads",
            f"width: {max(1, round(spec.width / spec.heads)) * spec.heads}",
            ("width",),
        )
    return spec


class Gpt(Spec):
    """Decoder-only Transformer over tokens: GELU MLP, learned positions, causal attention."""

    name: Literal["gpt"] = "gpt"
    layers: Count = Field(default=4, description="Transformer blocks")
    heads: Count = Field(default=4, description="attention heads; divides width")
    width: Count = Field(default=128, description="embedding width")
    context: Count | None = Field(
        default=None, description="longest sequence, tokens; default the data's context"
    )
    norm: Literal["pre", "post"] = Field(
        default="pre", description="LayerNorm before each sublayer (GPT-2) or after its sum (2017)"
    )
    tied: Flag = Field(default=True, description="output layer shares the embedding's weights")
    qk_norm: Flag = Field(default=False, description="LayerNorm on queries and keys, per head")
    bias: Flag = Field(default=True, description="biases in linear layers and norms")
    dropout: Fraction = Field(default=0.0, description="probability, everywhere GPT-2 has it")
    init: Literal["gpt2", "xavier"] = Field(
        default="gpt2",
        description="gpt2: N(0, 0.02²), residual writes over √(2·layers); xavier: Glorot uniform",
    )

    @model_validator(mode="after")
    def _heads_fit(self) -> "Gpt":
        return _heads_divide_width(self)


class Encoder(Spec):
    """Transformer encoder over tokens: restores masked ones, or classifies rows."""

    name: Literal["encoder"] = "encoder"
    layers: Count = Field(default=4, description="Transformer blocks")
    heads: Count = Field(default=4, description="attention heads; divides width")
    width: Count = Field(default=128, description="embedding width")
    norm: Literal["pre", "post"] = Field(
        default="pre", description="LayerNorm before each sublayer, or after its sum (BERT)"
    )
    qk_norm: Flag = Field(default=False, description="LayerNorm on queries and keys, per head")
    dropout: Fraction = Field(default=0.0, description="probability, after each sublayer")

    @model_validator(mode="after")
    def _heads_fit(self) -> "Encoder":
        return _heads_divide_width(self)


class Vit(Spec):
    """Vision Transformer on square patches, pre-LN, class token; ViT-tiny by default."""

    name: Literal["vit"] = "vit"
    layers: Count = Field(default=12, description="Transformer blocks")
    heads: Count = Field(default=3, description="attention heads; divides width")
    width: Count = Field(default=192, description="embedding width")
    patch: Count | None = Field(
        default=None,
        description="side of a patch, pixels; default 16, an eighth of images up to 64 pixels",
    )
    qk_norm: Flag = Field(default=False, description="LayerNorm on queries and keys, per head")
    dropout: Fraction = Field(default=0.0, description="probability, after each sublayer")

    @model_validator(mode="after")
    def _heads_fit(self) -> "Vit":
        return _heads_divide_width(self)


class Hf(Spec):
    """A transformers folder (extra `hf`): its architecture, and its weights unless told not to."""

    name: Literal["hf"] = "hf"
    path: Text = Field(description="folder with config.json, as save_pretrained writes it")
    task: Literal["causal_lm", "masked_lm", "image_classification"] = Field(
        default="causal_lm", description="which head: the data must be of that kind"
    )
    weights: Literal["folder", "random"] = Field(
        default="folder", description="start from the folder's weights, or from chance"
    )
    attention: Literal["eager", "sdpa"] = Field(
        default="eager", description="transformers' attn_implementation"
    )


class Mlp(Spec):
    """Fully connected network on flattened inputs."""

    name: Literal["mlp"] = "mlp"
    hidden: tuple[Count, ...] = Field(default=(64, 64), description="widths of hidden layers")
    activation: Literal["relu", "tanh", "gelu", "silu"] = Field(
        default="tanh", description="between layers; relu has no curvature of its own"
    )
    dropout: Fraction = Field(default=0.0, description="probability, after each activation")


class ResNet(Spec):
    """CIFAR ResNet of He et al. 2016: 3 stages of (depth−2)/6 basic blocks, BatchNorm."""

    name: Literal["resnet"] = "resnet"
    depth: Count = Field(default=20, description="6n+2: 8, 14, 20, 32, 44, 56")
    width: Count = Field(default=16, description="channels of the first stage")

    @model_validator(mode="after")
    def _depth_fits(self) -> "ResNet":
        if self.depth < 8 or (self.depth - 2) % 6:
            near = max(8, 6 * round((self.depth - 2) / 6) + 2)
            raise fault(f"{self.depth} is not 6n+2", f"depth: {near}", ("depth",))
        return self


class _DeepResNet(Spec):
    stem: Literal["auto", "cifar", "imagenet"] = Field(
        default="auto",
        description="cifar: one 3x3 convolution; imagenet: 7x7 of stride 2, max pooling; "
        "auto: cifar for images up to 64 pixels",
    )
    width: Count = Field(default=64, description="channels of the first stage")
    zero_init: Flag = Field(
        default=False, description="the last BatchNorm of each block starts at weight 0"
    )


class ResNet18(_DeepResNet):
    """ResNet-18 of He et al. 2016 for images, BatchNorm, torchvision's parameter names."""

    name: Literal["resnet18"] = "resnet18"


class ResNet34(_DeepResNet):
    """ResNet-34, as `resnet18`."""

    name: Literal["resnet34"] = "resnet34"


class ResNet50(_DeepResNet):
    """ResNet-50 of bottleneck blocks, as `resnet18`."""

    name: Literal["resnet50"] = "resnet50"


class Quadratic(Spec):
    """½θ'Aθ with known eigenvalues, for checking an estimator or a scheduler."""

    name: Literal["quadratic"] = "quadratic"
    dim: Count = Field(default=20, description="number of parameters")
    condition: Annotated[Real, Field(description="largest over smallest eigenvalue")] = 100.0
    largest: Positive = Field(default=1.0, description="largest eigenvalue, loss/parameter²")
    rotated: Flag = Field(default=True, description="hide the eigenvectors by a random rotation")

    @model_validator(mode="after")
    def _condition_fits(self) -> "Quadratic":
        if self.condition < 1:
            raise fault(f"{shown(self.condition)} is too small", "at least 1", ("condition",))
        return self


class UserModel(Spec):
    """`package.module:callable` or `file.py:callable`, called with every other key."""

    model_config = ConfigDict(extra="allow")

    name: Text = Field(description="package.module:callable or file.py:callable")


MODEL_SPECS: dict[str, type[Spec]] = {
    "gpt": Gpt,
    "encoder": Encoder,
    "vit": Vit,
    "mlp": Mlp,
    "resnet": ResNet,
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
    "hf": Hf,
    "quadratic": Quadratic,
}


def _model(value: Any) -> Any:
    """A bare word is a zoo model; text with a colon is a target and stays text."""
    if not isinstance(value, str) or ":" in value:
        return value
    if value in MODEL_SPECS:
        return {"name": value}
    near = closest(value, MODEL_SPECS)
    raise fault(
        f"{value!r} is neither a model of the zoo nor file.py:callable",
        f"did you mean {near!r}?"
        if near
        else f"one of {', '.join(MODEL_SPECS)}, or model.py:build",
    )


ModelSpec = choice(MODEL_SPECS, user=UserModel)
Model = Annotated[choice(MODEL_SPECS, user=UserModel, target=True), BeforeValidator(_model)]
