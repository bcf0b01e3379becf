"""The three networks of the comparison, with their data, trained a little on the spot.

    mlp      64-128-128-10 ReLU on 8x8 images of digits drawn from a font, batch 256
    resnet   ResNet-20 widths with BatchNorm and a stride-4 stem, 128 images of 32x32
    gpt      4 layers, width 128, 64 tokens, vocabulary 512, tied head, batch 16

All data is generated, so that nothing is downloaded; half-trained, because at the start and at
the end of training spectra are untypically easy. Attention is written out: no peer can
differentiate the fused kernel twice (ours can be given either).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FONT = (  # 5x7 dots, a row in five bits
    (14, 17, 19, 21, 25, 17, 14),
    (4, 12, 4, 4, 4, 4, 14),
    (14, 17, 1, 2, 4, 8, 31),
    (31, 2, 4, 2, 1, 17, 14),
    (2, 6, 10, 18, 31, 2, 2),
    (31, 16, 30, 1, 1, 17, 14),
    (6, 8, 16, 30, 17, 17, 14),
    (31, 1, 2, 4, 8, 8, 8),
    (14, 17, 17, 14, 17, 17, 14),
    (14, 17, 17, 15, 1, 2, 12),
)


@dataclass(frozen=True)
class Case:
    """One network, its batch and what is asked about it."""

    name: str
    model: nn.Module
    batch: tuple[Tensor, Tensor]
    layers: tuple[str, ...]  # parameters whose diagonal block is measured
    loss: float

    @property
    def params(self) -> list[Tensor]:
        """Trainable tensors, tied ones once."""
        return list(self.model.parameters())

    @property
    def n_params(self) -> int:
        """Their entries."""
        return sum(p.numel() for p in self.params)


def criterion(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over the last dimension, for classes and for tokens."""
    return F.cross_entropy(output.reshape(-1, output.shape[-1]), target.reshape(-1))


def build(name: str, seed: int = 0) -> Case:
    """Return a case by name: mlp, resnet or gpt; the same seed gives the same bits."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _BUILDERS[name]()


def _mlp() -> Case:
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    x, y = digits(1797)
    loss = _train(model, x, y, steps=150, lr=0.1, batch=256)
    return _case("mlp", model, (x[:256], y[:256]), loss)


def _resnet() -> Case:
    model = ResNet()
    x, y = textures(512)
    loss = _train(model, x, y, steps=40, lr=0.05, batch=128)
    return _case("resnet", model, (x[:128], y[:128]), loss)


def _gpt() -> Case:
    model = GPT()
    tokens = markov_text(16 * 65 * 8, vocabulary=512).view(-1, 65)
    x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    loss = _train(model, x, y, steps=50, lr=0.1, batch=16)
    return _case("gpt", model, (x[:16], y[:16]), loss, n_layers=10)


_BUILDERS: dict[str, Callable[[], Case]] = {"mlp": _mlp, "resnet": _resnet, "gpt": _gpt}


def _case(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor], loss: float, n_layers: int = 0
) -> Case:
    model.eval()
    matrices = [key for key, p in model.named_parameters() if p.dim() > 1]
    if n_layers:  # some, evenly spaced
        last = len(matrices) - 1
        matrices = [matrices[round(i * last / (n_layers - 1))] for i in range(n_layers)]
    return Case(name, model, batch, tuple(matrices), loss)


def _train(model: nn.Module, x: Tensor, y: Tensor, *, steps: int, lr: float, batch: int) -> float:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    loss = torch.zeros(())
    for _ in range(steps):
        rows = torch.randint(len(x), (batch,))
        optimizer.zero_grad()
        loss = criterion(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def digits(count: int) -> tuple[Tensor, Tensor]:
    """8x8 images (count, 64) in [0, 1] of shifted, blurred, noisy digits, and their classes."""
    y = torch.randint(10, (count,))
    font = torch.tensor([[[row >> (4 - c) & 1 for c in range(5)] for row in g] for g in _FONT])
    page = torch.zeros(count, 1, 10, 10)
    for i, (dy, dx) in enumerate(torch.randint(0, 3, (count, 2)).tolist()):
        page[i, 0, dy : dy + 7, dx + 1 : dx + 6] = font[y[i]].float()
    soft = F.avg_pool2d(page, 3, stride=1)
    image = (1.5 * soft * (0.6 + 0.4 * torch.rand(count, 1, 1, 1))).clamp(0, 1)
    return (image + 0.15 * torch.randn_like(image)).clamp(0, 1).view(count, 64), y


def textures(count: int) -> tuple[Tensor, Tensor]:
    """Images (count, 3, 32, 32) of waves whose direction and colour tell ten classes, in noise."""
    y = torch.randint(10, (count,))
    grid = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"))
    angle = y * math.pi / 10
    wave = torch.stack([angle.cos(), angle.sin()], dim=1) @ grid.view(2, -1) * 0.6
    wave = (wave + 2 * math.pi * torch.rand(count, 1)).sin().view(count, 1, 32, 32)
    colour = torch.randn(10, 3)[y].view(count, 3, 1, 1)
    return wave * colour + torch.randn(count, 3, 32, 32), y


def markov_text(count: int, *, vocabulary: int) -> Tensor:
    """A chain of `count` tokens with Zipf frequencies, each drawn from 16 likely successors."""
    zipf = 1.0 / torch.arange(1, vocabulary + 1).float()
    successors = torch.multinomial(zipf.expand(vocabulary, -1), 16)
    choice = torch.multinomial(1.0 / torch.arange(1.0, 17.0), count, replacement=True).tolist()
    table, token, out = successors.tolist(), 0, []
    for pick in choice:
        token = table[token][pick]
        out.append(token)
    return torch.tensor(out)


class ResNet(nn.Module):
    """ResNet-20 for 32x32 images with projections and a stride-4 stem: 272,474 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=4, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        widths = (16, 16, 16, 16, 32, 32, 32, 64, 64, 64)
        self.blocks = nn.ModuleList(_Residual(a, b) for a, b in pairwise(widths))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 10)."""
        x = F.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=(2, 3)))


class _Residual(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if before != after:
            conv = nn.Conv2d(before, after, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))


class GPT(nn.Module):
    """A decoder with learned positions, pre-norm, GELU and a tied head: 867,072 parameters."""

    def __init__(self, vocabulary: int = 512, context: int = 64, width: int = 128) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(_Decoder(width, heads=4) for _ in range(4))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)
        self.head.weight = self.token.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (batch, context, vocabulary)."""
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class _Decoder(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, context, width = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, context, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)
        future = torch.ones(context, context, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(future, -math.inf).softmax(dim=-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, context, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))
