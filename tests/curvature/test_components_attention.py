"""Attention in every spelling gives the numbers of its logits, written out from its own q, k.

Each case is a way to attend, and the logits it should have: (heads, rows, keys) per example,
with -inf where a key is not seen. float64 where nothing else is said.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from oracles.attention import attention, causal, masked
from torch import nn

from homotopy_cli.curvature.components import measure_components
from homotopy_cli.curvature.components_attention import dot_product_logits
from homotopy_cli.problems.problem import Problem

BATCH, HEADS, LENGTH, SIZE = 3, 2, 5, 4
SEES = causal(LENGTH, LENGTH)
PADDING = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4])
BIAS = torch.linspace(-2, 1, HEADS * LENGTH * LENGTH).double().reshape(HEADS, LENGTH, LENGTH)
SLOPES = torch.tensor([0.5, 0.25], dtype=torch.float64)
ALIBI = SLOPES[:, None, None] * -(torch.arange(5.0)[:, None] - torch.arange(5.0)).abs().double()


class Attending(nn.Module):
    """Projections without bias, then `way(q, k, v)` on (batch, heads, length, size)."""

    def __init__(self, way, key_heads: int = HEADS) -> None:
        super().__init__()
        self.way = way
        self.query = nn.Linear(6, HEADS * SIZE, bias=False)
        self.key = nn.Linear(6, key_heads * SIZE, bias=False)
        self.value = nn.Linear(6, key_heads * SIZE, bias=False)

    def forward(self, x):
        parts = (self.query(x), self.key(x), self.value(x))
        return self.way(*(t.unflatten(-1, (-1, SIZE)).transpose(1, 2) for t in parts))


def outputs_squared(model, x):
    return model(x).square().mean()


@pytest.fixture
def x():
    torch.manual_seed(2)
    return 3 * torch.randn(BATCH, LENGTH, 6, dtype=torch.float64)


def build(way, *, key_heads=HEADS):
    torch.manual_seed(5)
    return Attending(way, key_heads).double()


def by_hand(model, x):
    """q·k over heads, one multiplication at a time: (batch, heads, rows, keys), not scaled."""
    q = torch.stack([example @ model.query.weight.T for example in x])
    k = torch.stack([example @ model.key.weight.T for example in x])
    q = torch.stack(q.detach().split(SIZE, -1), 1)
    k = torch.stack(k.detach().split(SIZE, -1), 1)
    k = torch.stack([k[:, h * k.shape[1] // HEADS] for h in range(HEADS)], 1)
    return (q[:, :, :, None, :] * k[:, :, None, :, :]).sum(-1)


def check(model, x, logits, *, rtol=1e-10, mode="eval"):
    found = measure_components(Problem.from_module(model, outputs_squared, [x], mode=mode))
    assert found.notes == ()
    (site,) = found.attention
    want = attention(logits)
    assert site.n_heads == logits.shape[1]
    assert site.max_logit == pytest.approx(want.max_logit, rel=rtol)
    assert site.entropy == pytest.approx(want.entropy, rel=rtol)
    assert site.entropy_normalised == pytest.approx(want.entropy_normalised, rel=rtol)
    assert site.head_max_logit == pytest.approx(want.head_max_logit, rel=rtol)
    assert site.head_entropy == pytest.approx(want.head_entropy, rel=rtol)
    assert site.seed_kappa == pytest.approx(math.exp(2 * want.max_logit), rel=1e-6)
    return found


SDPA = F.scaled_dot_product_attention
FLOAT_MASK = torch.where(SEES, 0.0, -math.inf).double() + BIAS
FUSED = {
    "plain": (SDPA, lambda s: s / 2),
    "causal": (lambda q, k, v: SDPA(q, k, v, is_causal=True), lambda s: masked(s / 2, SEES)),
    "bool mask": (lambda q, k, v: SDPA(q, k, v, SEES), lambda s: masked(s / 2, SEES)),
    "padding mask": (
        lambda q, k, v: SDPA(q, k, v, attn_mask=PADDING[:, None, None]),
        lambda s: masked(s / 2, PADDING[:, None, None]),
    ),
    "float mask": (
        lambda q, k, v: SDPA(q, k, v, attn_mask=FLOAT_MASK),
        lambda s: s / 2 + FLOAT_MASK,
    ),
    "rows without a key": (
        lambda q, k, v: SDPA(q, k, v, attn_mask=SEES & (torch.arange(5) > 1)[:, None]),
        lambda s: masked(s / 2, SEES & (torch.arange(5) > 1)[:, None]),
    ),
    "scale": (lambda q, k, v: SDPA(q, k, v, scale=0.3), lambda s: 0.3 * s),
    "dropout": (lambda q, k, v: SDPA(q, k, v, dropout_p=0.5), lambda s: s / 2),
    "heads in the batch": (
        lambda q, k, v: SDPA(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)),
        lambda s: s / 2,
    ),
    "five axes": (
        lambda q, k, v: SDPA(q[:, None], k[:, None], v[:, None], BIAS),
        lambda s: s / 2 + BIAS,
    ),
}


@pytest.mark.parametrize("name", FUSED)
def test_scaled_dot_product_attention(name, x):
    way, expected = FUSED[name]
    model = build(way)
    check(model, x, expected(by_hand(model, x)), mode="train")


def test_query_heads_that_share_key_heads(x):
    model = build(lambda q, k, v: SDPA(q, k, v, is_causal=True, enable_gqa=True), key_heads=1)
    check(model, x, masked(by_hand(model, x) / 2, SEES))


def test_key_heads_repeated_by_hand(x):
    def way(q, k, v):
        k, v = (t[:, :, None].expand(-1, -1, HEADS, -1, -1).flatten(1, 2) for t in (k, v))
        return torch.softmax(q @ k.transpose(2, 3), -1) @ v

    model = build(way, key_heads=1)
    check(model, x, by_hand(model, x))


def test_queries_and_keys_that_are_normed_first(x):
    def way(q, k, v):
        return SDPA(F.rms_norm(q, (SIZE,), eps=1e-6), F.rms_norm(k, (SIZE,), eps=1e-6), v)

    model = build(way)
    found = measure_components(Problem.from_module(model, outputs_squared, [x]))
    q, k = (
        torch.einsum("bte,he->bth", x, w.detach()).unflatten(-1, (HEADS, SIZE))
        for w in (model.query.weight, model.key.weight)
    )
    q, k = (t / (t.square().sum(-1, keepdim=True) / SIZE + 1e-6) ** 0.5 for t in (q, k))
    want = attention(torch.einsum("bqhd,bkhd->bhqk", q, k) / 2)
    assert found.attention[0].entropy == pytest.approx(want.entropy, rel=1e-10)
    assert found.attention[0].max_logit == pytest.approx(want.max_logit, rel=1e-10)
    assert [norm.kind for norm in found.norm] == ["RMSNorm", "RMSNorm"]


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


@pytest.mark.parametrize("kind", ["none", "causal", "bool", "float"])
def test_logits_reproduce_the_kernels_own_output(kind):
    """softmax(logits) v is what torch returns from its own choice of kernel."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 6, 8) for _ in range(3))
    masks = {"bool": torch.rand(2, 1, 6, 6) > 0.4, "float": torch.randn(4, 6, 6)}
    mask = masks.get(kind)
    if kind == "bool":
        mask |= torch.eye(6, dtype=torch.bool)
    want = SDPA(q, k, v, attn_mask=mask, is_causal=kind == "causal")
    logits, shape = dot_product_logits(
        q, k, mask, is_causal=kind == "causal", scale=None, grouped=False
    )
    assert shape == (2, 4, 6, 6)
    found = logits(slice(0, 2), slice(0, 4), slice(0, 6)).softmax(-1) @ v
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)


def test_a_mask_and_is_causal_at_once_both_hide(x):
    """Kernels differ in whether they take both; those that do apply both."""
    q, k = x[:, None], x[:, None]
    logits, _ = dot_product_logits(
        q, k, PADDING[:, None, None], is_causal=True, scale=1.0, grouped=False
    )
    found = logits(slice(0, 3), slice(0, 1), slice(0, 5))
    want = masked(masked(q @ k.mT, SEES), PADDING[:, None, None])
    torch.testing.assert_close(found, want)


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
