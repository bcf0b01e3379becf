"""torch's own attention function gives the numbers of its logits, from the layer's own q, k.

Each case is a call, and the logits it should have: (heads, rows, keys) per example, with -inf
where a key is not seen. float64 where nothing else is said.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from oracles.attending import (
    BIAS,
    HEADS,
    PADDING,
    SEES,
    SIZE,
    build,
    by_hand,
    check,
    inputs,
    outputs_squared,
)
from oracles.attention import attention, masked

from homotopy_cli.curvature.components import measure_components
from homotopy_cli.curvature.components_attention import dot_product_logits
from homotopy_cli.problems.problem import Problem


@pytest.fixture
def x():
    return inputs()


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
