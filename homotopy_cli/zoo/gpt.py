"""Decoder-only Transformer (GPT-2, Radford et al. 2019), small enough to read.

Pre-LN: x + f(LN(x)), and a LayerNorm before the output layer. Post-LN: LN(x + f(x)), as in
Vaswani et al. 2017: curvature at the start is far higher, which is why it needs warmup
(Xiong et al. 2020, arXiv:2002.04745).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention; `qk_norm` adds a LayerNorm to queries and keys."""

    def __init__(
        self, width: int, heads: int, *, bias: bool, dropout: float, qk_norm: bool, causal: bool
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        size = width // heads
        self.query_norm = nn.LayerNorm(size, bias=bias) if qk_norm else nn.Identity()
        self.key_norm = nn.LayerNorm(size, bias=bias) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """(B, T, width) -> (B, T, width); `seen` (B, T) bool: positions that are attended to."""
        n, length, width = x.shape
        split = self.qkv(x).view(n, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (B, heads, T, size)
        y = F.scaled_dot_product_attention(
            self.query_norm(query),
            self.key_norm(key),
            value,
            attn_mask=None if seen is None else seen[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal,
        )
        return self.out(y.transpose(1, 2).reshape(n, length, width))


class FeedForward(nn.Module):
    """Linear, GELU, linear; four times as wide inside."""

    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width, bias=bias)
        self.down = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    """Attention and feed-forward, each with its LayerNorm and residual connection."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        pre: bool,
        bias: bool,
        dropout: float,
        qk_norm: bool,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.pre = pre
        self.norm1 = nn.LayerNorm(width, bias=bias)
        self.attention = Attention(
            width, heads, bias=bias, dropout=dropout, qk_norm=qk_norm, causal=causal
        )
        self.norm2 = nn.LayerNorm(width, bias=bias)
        self.feed_forward = FeedForward(width, bias=bias)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """(B, T, width) -> (B, T, width); `seen` as in Attention."""
        if self.pre:
            x = x + self.drop(self.attention(self.norm1(x), seen))
            return x + self.drop(self.feed_forward(self.norm2(x)))
        x = self.norm1(x + self.drop(self.attention(x, seen)))
        return self.norm2(x + self.drop(self.feed_forward(x)))


def initialise(model: nn.Module, layers: int, init: str) -> None:
    """Set every linear layer and embedding of a Transformer, in place.

    Args:
        layers: Blocks, each with two writes to the residual stream.
        init: `gpt2`: N(0, 0.02²), residual writes scaled by 1/√(2·layers) (Radford et al. 2019);
            `xavier`: Glorot uniform in linear layers, as the Transformer of 2017.
    """
    for name, module in model.named_modules():
        if init == "xavier" and isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Linear | nn.Embedding):
            residual = name.endswith(("attention.out", "feed_forward.down"))
            scale = 1 / math.sqrt(2 * layers) if residual else 1.0
            nn.init.normal_(module.weight, std=0.02 * scale)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


class GPT(nn.Module):
    """Tokens (B, T) int64, T <= context -> scores (B, T, vocab_size)."""

    def __init__(
        self,
        vocab_size: int,
        *,
        layers: int = 4,
        heads: int = 4,
        width: int = 128,
        context: int = 64,
        norm: str = "pre",
        tied: bool = True,
        qk_norm: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        init: str = "gpt2",
    ) -> None:
        super().__init__()
        self.context = context
        self.token = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(context, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, pre=norm == "pre", bias=bias, dropout=dropout, qk_norm=qk_norm)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, bias=bias) if norm == "pre" else nn.Identity()
        self.head = nn.Linear(width, vocab_size, bias=False)
        initialise(self, layers, init)
        if tied:
            self.head.weight = self.token.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the next token at every position."""
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(f"{length} tokens, but the model's context is {self.context}")
        positions = torch.arange(length, device=tokens.device)
        x = self.drop(self.token(tokens) + self.position(positions))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
