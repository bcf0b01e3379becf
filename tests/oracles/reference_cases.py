"""Thirteen small models with stored weights, batches and answers; MODELS is the grid.

The answers are of dense Hessians in float64, by a program that shares nothing with this one:
eigenvalues of rows of `torch.autograd`, confirmed by differences of gradients to 1e-9. The
trained weights are float32 and stored to nine digits, which is exact.
"""

import collections
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from homotopy_cli.problems.problem import Problem


class Tied(nn.Module):
    """The head is the embedding: 48 parameters, 76 if counted twice."""

    def __init__(self):
        super().__init__()
        self.emb, self.mix = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, tokens):
        return self.head(self.mix(self.emb(tokens)).tanh())


class FrozenAndUnused(nn.Module):
    """A frozen layer amid the net, and a head that the loss never reaches."""

    def __init__(self):
        super().__init__()
        self.body, self.frozen = nn.Linear(5, 6), nn.Linear(6, 6)
        self.head, self.aux = nn.Linear(6, 2), nn.Linear(6, 4)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.head(self.frozen(self.body(x).tanh()).tanh())


class Encoder(nn.Module):
    """Fused attention and ReLU."""

    def __init__(self):
        super().__init__()
        self.enc = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.enc(x).mean(1))


class Saddle(nn.Module):
    """Curvatures -3, 2.9, 1 and 3 p₃²: the largest is negative, by a little."""

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.zeros(4))

    def forward(self):
        a, b, c, d = self.p
        return -1.5 * a**2 + 1.45 * b**2 + 0.5 * c**2 + 0.25 * d**4


class Experts(nn.Module):
    """Top-1 routing; no row of the batch is sent to the last expert."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(4, 4)
        self.experts = nn.ModuleList([nn.Linear(4, 3) for _ in range(4)])

    def forward(self, x):
        weight, chosen = self.gate(x).softmax(-1).max(-1)
        out = x.new_zeros(len(x), 3)
        for i, expert in enumerate(self.experts):
            rows = chosen == i
            if rows.any():
                value = weight[rows, None] * expert(x[rows])
                out = out.index_put((rows.nonzero()[:, 0],), value)
        return out


class Output(collections.OrderedDict):
    """Attribute and key access, like the outputs of large model libraries."""

    __getattr__ = collections.OrderedDict.__getitem__


class Labelled(nn.Module):
    """Takes a dict batch and returns its own loss."""

    def __init__(self):
        super().__init__()
        self.emb, self.out = nn.Embedding(11, 5), nn.Linear(5, 2)

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        seen = attention_mask.sum(1, keepdim=True)
        hidden = (self.emb(input_ids) * attention_mask[..., None]).sum(1) / seen
        logits = self.out(hidden.tanh())
        return Output(loss=F.cross_entropy(logits, labels), logits=logits)


class Buffers(nn.Module):
    """Float, integer and bool buffers, and a parameter without dimensions."""

    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(6))
        self.register_buffer("ids", torch.arange(4))
        self.register_buffer("flag", torch.tensor(True))
        self.lin, self.scale = nn.Linear(6, 2), nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.lin(x * self.window) * self.scale


def _cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def _squared(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


def _mean(model, batch):
    return model(batch[0]).mean()


def _own(model, batch):
    return model()


_own.count = lambda batch: 1


def _mlp():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def _batch_norm():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))


def _relu():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))


MODELS = {
    "P01": (_mlp, _cross_entropy),
    "P02": (lambda: nn.Linear(4, 1), _squared),
    "P04": (Tied, _cross_entropy),
    "P05": (FrozenAndUnused, _cross_entropy),
    "P06": (_batch_norm, _cross_entropy),
    "P08": (Encoder, _cross_entropy),
    "P10": (_relu, _mean),
    "P11": (Saddle, _own),
    "P12": (lambda: nn.Linear(3, 2), _squared),
    "P16": (Experts, _cross_entropy),
    "P17": (lambda: nn.Linear(2, 1), _squared),
    "P18": (Labelled, None),  # no loss is given: the output's own is used
    "P19": (Buffers, _cross_entropy),
}


@dataclass(frozen=True)
class Reference:
    """A model with trained weights, its loss, its batch, and what must come out."""

    model: nn.Module
    loss: object
    batches: list
    split: list  # the same rows as batches of unequal size, where the case has them
    expected: dict
    expected_train: dict | None

    def problem(self, dtype, **options) -> Problem:
        return Problem.from_module(self.model, self.loss, self.batches, dtype=dtype, **options)


def reference(name: str) -> Reference:
    """A case, with a model of its own."""
    build, loss = MODELS[name]
    stored = _stored()[name]
    with torch.random.fork_rng():
        model = build()
    model.load_state_dict(_tensors(stored["state"]), strict=True)
    return Reference(
        model,
        loss,
        [_tensors(batch) for batch in stored["batches"]],
        [_tensors(batch) for batch in stored.get("split", [])],
        stored["expected"],
        stored.get("expected_train"),
    )


@cache
def _stored() -> dict:
    path = Path(__file__).with_name("reference_cases.json")
    return json.loads(path.read_text(encoding="utf-8"))


def _tensors(value):
    """Nests of tensors from nests of {"dtype", "shape", "values"}."""
    if isinstance(value, list):
        return tuple(_tensors(part) for part in value)
    if value.keys() == {"dtype", "shape", "values"}:
        dtype = getattr(torch, value["dtype"])
        return torch.tensor(value["values"], dtype=dtype).reshape(value["shape"])
    return {key: _tensors(part) for key, part in value.items()}
