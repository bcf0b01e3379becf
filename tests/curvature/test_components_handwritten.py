"""Attention in every spelling gives the numbers of its logits, from the layer's own q, k.

Each case is a way to attend, and the logits it should have: (heads, rows, keys) per example,
with -inf where a key is not seen. float64 where nothing else is said.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from oracles.attending import (
    ALIBI,
    BATCH,
    BIAS,
    HEADS,
    LENGTH,
    SEES,
    SIZE,
    build,
    by_hand,
    check,
    inputs,
    outputs_squared,
)
from oracles.attention import attention, masked
from torch import nn

from homotopy_cli.curvature.components import measure_components
from homotopy_cli.problems.problem import Problem

SDPA = F.scaled_dot_product_attention


@pytest.fixture
def x():
    return inputs()


def softmax_of(scores):
    """A hand-written attention from its scores alone."""
    return lambda q, k, v: scores(q, k).softmax(-1) @ v


def merged(*tensors):
    return [t.reshape(-1, *t.shape[-2:]) for t in tensors]


def by_bmm(q, k, v):
    q, k, v = merged(q, k, v)
    return torch.bmm(F.softmax(torch.bmm(q, k.transpose(1, 2)), dim=-1), v)


def by_baddbmm(q, k, v):
    q, k, v = merged(q, k, v)
    bias = ALIBI.repeat(BATCH, 1, 1)
    return F.softmax(torch.baddbmm(bias, q, k.mT, beta=1, alpha=0.5), dim=-1) @ v


def by_named_baddbmm(q, k, v):
    """The spelling of BLOOM."""
    q, k, v = merged(q, k, v)
    bias = ALIBI.repeat(BATCH, 1, 1)
    scores = bias.baddbmm(batch1=q, batch2=k.transpose(-1, -2), beta=1.0, alpha=0.5)
    scores = scores.view(BATCH, HEADS, LENGTH, LENGTH)
    weights = F.softmax(scores, dim=-1, dtype=torch.float64).view(-1, LENGTH, LENGTH)
    return torch.bmm(weights, v)


def sequence_first(q, k, v):
    """(length, batch·heads, size), as older code and nn.MultiheadAttention lay it out."""
    q, k, v = (t.permute(2, 0, 1, 3).flatten(2) for t in (q, k, v))
    q, k, v = (t.reshape(LENGTH, BATCH * HEADS, SIZE).transpose(0, 1) for t in (q, k, v))
    scores = torch.bmm(q * 0.5, k.transpose(1, 2))
    scores = scores.masked_fill(~SEES, float("-inf"))
    return torch.bmm(F.dropout(scores.softmax(dim=-1), 0.1), v)


def in_place(q, k, v):
    scores = q @ k.mT
    scores /= 2
    scores += BIAS
    scores.masked_fill_(~SEES, -math.inf)
    weights = nn.Softmax(dim=3)(scores)
    weights = nn.Dropout(0.5)(weights)
    return weights @ v


def with_sink(q, k, v):
    """A learned logit that takes part in the softmax and is then dropped."""
    scores = q @ k.mT
    sink = torch.ones(BATCH, HEADS, LENGTH, 1, dtype=scores.dtype)
    return torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1] @ v


def einsum(q, k, v):
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (batch, length, heads, size)
    weights = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", q, k), dim=-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v)


def t5(q, k, v):
    scores = torch.matmul(q, k.transpose(3, 2))
    scores += BIAS[None]
    weights = F.softmax(scores.float(), dim=-1).type_as(scores)
    return torch.matmul(F.dropout(weights, p=0.1, training=False), v)


def one_head_at_a_time(q, k, v):
    return torch.stack([(q[:, i] @ k[:, i].mT).softmax(-1) @ v[:, i] for i in range(HEADS)], 1)


def additive_minimum(q, k, v):
    """Masked by the dtype's minimum instead of -inf."""
    hidden = (1.0 - SEES.double()) * torch.finfo(torch.float64).min
    return torch.softmax(torch.matmul(q, k.mT) / math.sqrt(SIZE) + hidden, dim=-1) @ v


HAND_WRITTEN = {
    "matmul": (softmax_of(lambda q, k: torch.matmul(q, k.transpose(-2, -1))), lambda s: s),
    "named arguments": (
        lambda q, k, v: torch.softmax(input=torch.matmul(input=q, other=k.mT), dim=-1) @ v,
        lambda s: s,
    ),
    "operator": (softmax_of(lambda q, k: (q * SIZE**-0.5) @ k.mT), lambda s: s / 2),
    "einsum": (einsum, lambda s: s),
    "bmm": (by_bmm, lambda s: s),
    "baddbmm and ALiBi": (by_baddbmm, lambda s: s / 2 + ALIBI),
    "baddbmm by name": (by_named_baddbmm, lambda s: s / 2 + ALIBI),
    "sequence first": (sequence_first, lambda s: masked(s / 2, SEES)),
    "masked_fill": (
        softmax_of(lambda q, k: (q @ k.mT).masked_fill(SEES == 0, -math.inf)),
        lambda s: masked(s, SEES),
    ),
    "where": (
        softmax_of(lambda q, k: torch.where(SEES, q @ k.mT, torch.tensor(-math.inf).double())),
        lambda s: masked(s, SEES),
    ),
    "additive minimum": (additive_minimum, lambda s: masked(s / 2, SEES)),
    "additive -inf": (
        softmax_of(lambda q, k: q @ k.mT + torch.full((5, 5), -math.inf).triu(1)),
        lambda s: masked(s, SEES),
    ),
    "ALiBi": (softmax_of(lambda q, k: q @ k.mT / 2 + ALIBI), lambda s: s / 2 + ALIBI),
    "in place": (in_place, lambda s: masked(s / 2 + BIAS, SEES)),
    "soft cap": (
        softmax_of(lambda q, k: 5.0 * torch.tanh((q @ k.mT) / 5.0)),
        lambda s: 5 * ((2 * s / 5).exp() - 1) / ((2 * s / 5).exp() + 1),
    ),
    "sink": (with_sink, lambda s: torch.cat([s, torch.ones_like(s[..., :1])], -1)),
    "largest subtracted": (
        softmax_of(lambda q, k: (s := q @ k.mT) - s.amax(-1, keepdim=True)),
        lambda s: s - s.max(-1, keepdim=True).values,
    ),
}


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_attention_written_by_hand(name, x):
    way, expected = HAND_WRITTEN[name]
    model = build(way)
    check(model, x, expected(by_hand(model, x)), mode="train")


def test_t5_bias_and_a_softmax_in_float32(x):
    model = build(t5)
    check(model, x, by_hand(model, x) + BIAS, rtol=1e-5)


def test_each_softmax_of_a_loop_over_heads_is_a_site(x):
    model = build(one_head_at_a_time)
    found = measure_components(Problem.from_module(model, outputs_squared, [x])).attention
    assert [site.name for site in found] == ["(root)", "(root)#2"]
    for i, site in enumerate(found):
        want = attention(by_hand(model, x)[:, i : i + 1])
        assert site.entropy == pytest.approx(want.entropy, rel=1e-10)
        assert site.max_logit == pytest.approx(want.max_logit, rel=1e-10)


def test_softmax_over_classes_is_no_attention(x):
    model = nn.Sequential(nn.Linear(6, 4), nn.Softmax(-1)).double()
    assert not measure_components(Problem.from_module(model, outputs_squared, [x])).attention


def test_softmax_over_the_vocabulary_of_a_tied_head_is_no_attention():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Embedding(7, 4)

        def forward(self, tokens):
            weight = self.token.weight / self.token.weight.norm(dim=-1, keepdim=True)
            return (self.token(tokens) @ weight.T).softmax(-1)

    tokens = torch.arange(6).reshape(2, 3)
    problem = Problem.from_module(Tied().double(), outputs_squared, [tokens])
    assert not measure_components(problem).attention


class LearnedQueries(nn.Module):
    """Two queries that are weights themselves read a sequence."""

    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.randn(2, 6))

    def forward(self, x):
        return (self.query @ x.transpose(1, 2)).softmax(-1) @ x


class Additive(nn.Module):
    """Scores from a small net over each pair, as before dot products."""

    def __init__(self):
        super().__init__()
        self.pair = nn.Linear(6, 4)
        self.score = nn.Linear(4, 1)

    def scores(self, x):
        h = self.pair(x)
        return self.score(torch.tanh(h[:, :, None] + h[:, None])).squeeze(-1)

    def forward(self, x):
        return torch.bmm(F.dropout(F.softmax(self.scores(x), dim=2), 0.1), x)


def test_learned_queries(x):
    model = LearnedQueries().double()
    logits = torch.stack([model.query.detach() @ example.T for example in x])[:, None]
    check(model, x, logits, mode="train")


def test_additive_attention(x):
    model = Additive().double()
    check(model, x, model.scores(x)[:, None], mode="train")


def test_attention_of_one_example_without_a_batch_axis(x):
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Linear(6, 4, bias=False)

        def forward(self, x):
            return torch.softmax(self.query(x) @ self.query(x).T, -1) @ x

    model = Single().double()
    q = x[0] @ model.query.weight.T
    check(model, x[0], (q @ q.T)[None, None])


def test_a_low_rank_head_is_no_attention(x):
    """Its weight is a product, but of weights alone."""

    class LowRank(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.randn(2, 6))

        def forward(self, x):
            weight = (self.up @ self.down).expand(3, 6, 6)
            return torch.bmm(torch.bmm(x, weight).softmax(-1), weight)

    problem = Problem.from_module(LowRank().double(), outputs_squared, [x])
    assert not measure_components(problem).attention


def test_an_expected_cost_in_the_loss_is_no_attention(x):
    cost = torch.rand(4, 4, dtype=torch.float64)

    def expected_cost(model, x):
        return (model(x).softmax(-1) @ cost).mean()

    problem = Problem.from_module(nn.Linear(6, 4).double(), expected_cost, [x])
    assert not measure_components(problem).attention
