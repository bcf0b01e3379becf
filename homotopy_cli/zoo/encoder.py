"""Transformer encoders: over tokens (Devlin et al. 2019) and over image patches (ViT)."""

import torch
from torch import Tensor, nn

from homotopy_cli.zoo.gpt import Block, initialise


class Encoder(nn.Module):
    """Tokens (B, T) int64 -> scores (B, T, n_outputs), or (B, n_outputs) with `pooled`.

    Every position sees every other that is not padding; `pooled` averages the states of those.
    """

    def __init__(
        self,
        vocab_size: int,
        n_outputs: int,
        *,
        pooled: bool,
        pad: int | None = None,
        layers: int = 4,
        heads: int = 4,
        width: int = 128,
        context: int = 64,
        norm: str = "pre",
        qk_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        """
        Args:
            n_outputs: Classes, or the vocabulary to restore tokens from.
            pooled: One score vector per row instead of one per token.
            pad: The token that fills up short rows; None: there is none.
            layers, heads, width, norm, qk_norm, dropout: See the settings of `encoder`.
            context: Longest row, tokens.
        """
        super().__init__()
        self.context, self.pooled, self.pad = context, pooled, pad
        self.token = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(context, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = _blocks(layers, width, heads, norm, qk_norm, dropout)
        self.norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()
        self.head = nn.Linear(width, n_outputs)
        initialise(self, layers, "gpt2")

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores."""
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(f"{length} tokens, but the model's context is {self.context}")
        seen = None if self.pad is None else tokens != self.pad
        if seen is not None:  # a row of nothing but padding is read whole: no 0/0
            seen = seen | ~seen.any(dim=1, keepdim=True)
        positions = torch.arange(length, device=tokens.device)
        x = self.drop(self.token(tokens) + self.position(positions))
        for block in self.blocks:
            x = block(x, seen)
        x = self.norm(x)
        if self.pooled and seen is not None:
            x = (x * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)
        elif self.pooled:
            x = x.mean(dim=1)
        return self.head(x)


class VisionTransformer(nn.Module):
    """Images (B, C, H, W) -> scores (B, n_classes) (Dosovitskiy et al. 2021, arXiv:2010.11929).

    Square patches become tokens by one linear map; a learnt class token is read out.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        n_classes: int,
        *,
        patch: int,
        layers: int = 12,
        heads: int = 3,
        width: int = 192,
        qk_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        """
        Args:
            input_shape: (C, H, W); H and W are multiples of `patch`.
            patch: Side of a patch, pixels.
            layers, heads, width, qk_norm, dropout: See the settings of `vit`.
        """
        super().__init__()
        channels, height, across = input_shape
        n_patches = (height // patch) * (across // patch)
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, n_patches + 1, width))
        self.drop = nn.Dropout(dropout)
        self.blocks = _blocks(layers, width, heads, "pre", qk_norm, dropout)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_classes)
        initialise(self, layers, "gpt2")

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        patches = self.patches(images).flatten(2).transpose(1, 2)  # (B, patches, width)
        x = torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1)
        x = self.drop(x + self.position)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def patch_for(patch: int | None, input_shape: tuple[int, ...]) -> int:
    """`patch`, or 16 for images above 64 pixels and an eighth of the side below."""
    side = min(input_shape[1:])
    return patch or (16 if side > 64 else max(1, side // 8))


def _blocks(
    layers: int, width: int, heads: int, norm: str, qk_norm: bool, dropout: float
) -> nn.ModuleList:
    return nn.ModuleList(
        Block(
            width,
            heads,
            pre=norm == "pre",
            bias=True,
            dropout=dropout,
            qk_norm=qk_norm,
            causal=False,
        )
        for _ in range(layers)
    )
