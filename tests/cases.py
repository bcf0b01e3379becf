"""Small models that between them hold every difficulty; CASES is the grid tests run over."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from homotopy_cli.problems.problem import Problem


@dataclass(frozen=True)
class Case:
    """A model with its loss and batches, always built the same, float64, eval mode."""

    name: str
    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Any], torch.Tensor]
    data: Callable[[], list]
    counts: tuple[int, ...]

    def parts(self, dtype=torch.float64):
        with torch.random.fork_rng():
            torch.manual_seed(7)
            model = self.build().to(dtype).eval()
            torch.manual_seed(8)
            batches = [_cast(batch, dtype) for batch in self.data()]
        return model, batches

    def problem(self, dtype=torch.float64, **options) -> Problem:
        model, batches = self.parts(torch.float64)
        return Problem.from_module(model, self.loss, batches, dtype=dtype, **options)


def _cast(value, dtype):
    if isinstance(value, tuple):
        return tuple(_cast(v, dtype) for v in value)
    return value.to(dtype) if value.is_floating_point() else value


class Quadratic(nn.Module):
    """L = ½ θᵀ A θ + bᵀ θ with A = Q diag(eigenvalues) Qᵀ: the Hessian is A everywhere."""

    def __init__(self, eigenvalues, linear=True, rotate=True):
        super().__init__()
        n = len(eigenvalues)
        q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q if rotate else torch.eye(n)
        q = q.to(torch.float64)
        values = torch.tensor(eigenvalues, dtype=torch.float64)
        self.register_buffer("a", (q * values) @ q.T)
        self.register_buffer("b", torch.randn(n, dtype=torch.float64) * float(linear))
        self.theta = nn.Parameter(torch.randn(n, dtype=torch.float64) * float(linear))

    def forward(self):
        return 0.5 * self.theta @ self.a @ self.theta + self.b @ self.theta


class TiedGPT(nn.Module):
    """Embedding tied to the head, one attention block through scaled_dot_product_attention."""

    def __init__(self, vocab=7, width=4, heads=2):
        super().__init__()
        self.heads = heads
        self.emb = nn.Embedding(vocab, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.head = nn.Linear(width, vocab, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, tokens):
        x = self.emb(tokens)
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, t, 3, self.heads, d // self.heads).unbind(2)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
        )
        return self.head(x + self.out(y.transpose(1, 2).reshape(b, t, d)))


class Encoder(nn.Module):
    """One post-norm encoder layer with fused attention; GELU, since differences need no kinks."""

    def __init__(self):
        super().__init__()
        self.enc = nn.TransformerEncoderLayer(
            4, 2, 6, dropout=0.0, batch_first=True, activation="gelu"
        )
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.enc(x).mean(1))


class FrozenAndUnused(nn.Module):
    """A frozen first layer, a body, a head, and a second head the loss never sees."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.body = nn.Linear(5, 6)
        self.head = nn.Linear(6, 3)
        self.aux = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.body(torch.tanh(self.frozen(x)))))


class Experts(nn.Module):
    """Top-1 routing by sign; all experts are called, so an idle one has a gradient of zeros."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(4, 2)
        self.experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(3))

    def forward(self, x):
        p = self.gate(x).softmax(-1)
        choice = (x[:, :1] > 0).long()  # expert 2 is never chosen
        mask = F.one_hot(choice[:, 0], 3).to(x)
        scale = torch.cat([p, p[:, :1]], dim=1) * mask
        return sum(scale[:, i : i + 1] * e(x) for i, e in enumerate(self.experts))


def _mlp():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def _conv_bn():
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.GELU(), nn.Flatten(), nn.Linear(48, 2)
    )
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2.0)
    return net


def _zero_regression():
    net = nn.Linear(4, 1)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    return net


def _cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def _squared(model, batch):
    return F.mse_loss(model(batch[0]).squeeze(-1), batch[1])


def _logistic(model, batch):
    return F.binary_cross_entropy_with_logits(model(batch[0]).squeeze(-1), batch[1])


def _tokens(model, batch):
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten(), ignore_index=-100)


def _own(model, batch):
    return model()


_own.count = lambda batch: 1


def _mean_output(model, batch):
    return model(batch[0]).mean()


def _classes(rows, features, classes):
    return (torch.randn(rows, *features), torch.randint(classes, (rows,)))


def _token_rows(rows, ignored):
    tokens = torch.randint(7, (rows, 6))
    targets = tokens[:, 1:].clone()
    targets.view(-1)[:ignored] = -100
    return (tokens[:, :-1], targets)


def _ten_rows():
    return (torch.randn(10, 3), torch.randn(10))


def _split(batch, sizes):
    return list(zip(batch[0].split(sizes), batch[1].split(sizes), strict=True))


CASES = (
    Case("quadratic", lambda: Quadratic([4.0, 2.5, 1.0, 0.3, -0.7]), _own, lambda: [()], (1,)),
    Case(
        "negative dominant",
        lambda: Quadratic([2.9, -3.0, 0.5, 0.53]),
        _own,
        lambda: [()],
        (1,),
    ),
    Case(
        "degenerate", lambda: Quadratic([5.0, 5.0, 5.0, 2.0, 2.0, -1.0]), _own, lambda: [()], (1,)
    ),
    Case("one parameter", lambda: Quadratic([3.0]), _own, lambda: [()], (1,)),
    Case("linear regression", lambda: nn.Linear(4, 1), _squared, lambda: [_reg()], (12,)),
    Case("logistic", lambda: nn.Linear(4, 1, bias=False), _logistic, lambda: [_binary()], (12,)),
    Case(
        "softmax regression",
        lambda: nn.Linear(4, 3, bias=False),
        _cross_entropy,
        lambda: [_classes(14, (4,), 3)],
        (14,),
    ),
    Case("mlp", _mlp, _cross_entropy, lambda: [_classes(20, (5,), 3)], (20,)),
    Case("conv bn", _conv_bn, _cross_entropy, lambda: [_classes(6, (2, 4, 4), 2)], (6,)),
    Case("tied gpt", TiedGPT, _tokens, lambda: [_token_rows(4, 0)], (20,)),
    Case(
        "ignored tokens",
        TiedGPT,
        _tokens,
        lambda: [_token_rows(4, 7), _token_rows(2, 3)],
        (13, 7),
    ),
    Case(
        "uneven batches",
        lambda: nn.Linear(3, 1),
        _squared,
        lambda: _split(_ten_rows(), [4, 4, 2]),
        (4, 4, 2),
    ),
    Case(
        "frozen and unused", FrozenAndUnused, _cross_entropy, lambda: [_classes(9, (5,), 3)], (9,)
    ),
    Case("zero gradient", _zero_regression, _squared, lambda: [_zero_targets()], (9,)),
    Case(
        "relu with linear loss",
        lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1)),
        _mean_output,
        lambda: [(torch.randn(8, 4),)],
        (8,),
    ),
    Case("idle expert", Experts, _cross_entropy, lambda: [_classes(12, (4,), 3)], (12,)),
    Case("encoder", Encoder, _cross_entropy, lambda: [_classes(5, (4, 4), 3)], (5,)),
)


def _reg():
    return (torch.randn(12, 4), torch.randn(12))


def _binary():
    return (torch.randn(12, 4), (torch.rand(12) > 0.5).float())


def _zero_targets():
    return (torch.randn(9, 4), torch.zeros(9))


BY_NAME = {case.name: case for case in CASES}
