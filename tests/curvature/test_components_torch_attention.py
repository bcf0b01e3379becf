"""torch's own attention layers: each path through them gives the numbers of their logits."""

import math
import warnings

import pytest
import torch
from oracles.attention import attention, causal, masked
from torch import nn

from homotopy_cli.curvature.components import measure_components
from homotopy_cli.problems.problem import Problem

WIDTH, HEADS, LENGTH = 8, 2, 5
PADDED = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])  # True: not a key


def logits_of(layer, query, key):
    """(batch, heads, rows, keys) from the packed or the separate projections of the layer."""
    if layer.in_proj_weight is not None:
        w_q, w_k, _ = layer.in_proj_weight.detach().split(WIDTH)
    else:
        w_q, w_k = layer.q_proj_weight.detach(), layer.k_proj_weight.detach()
    b_q, b_k, _ = layer.in_proj_bias.detach().split(WIDTH)
    q = (query @ w_q.T + b_q).reshape(*query.shape[:2], HEADS, -1)
    k = (key @ w_k.T + b_k).reshape(*key.shape[:2], HEADS, -1)
    return torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(WIDTH / HEADS)


class Reading(nn.Module):
    """One call of an attention layer with fixed arguments."""

    def __init__(self, attend, key=None, **arguments):
        super().__init__()
        self.attend, self.key, self.arguments = attend, key, arguments

    def forward(self, x):
        key = x if self.key is None else self.key
        return self.attend(x, key, key, **self.arguments)[0]


def outputs_squared(model, x):
    return model(x).square().mean()


def measured(model, x, mode="eval"):
    found = measure_components(Problem.from_module(model, outputs_squared, [x], mode=mode))
    assert found.notes == ()
    return found


def agrees(site, logits, *, name="attend"):
    want = attention(logits)
    assert (site.name, site.n_heads) == (name, HEADS)
    assert site.max_logit == pytest.approx(want.max_logit, rel=1e-10)
    assert site.entropy_normalised == pytest.approx(want.entropy_normalised, rel=1e-10)
    assert site.head_max_logit == pytest.approx(want.head_max_logit, rel=1e-10)
    assert site.head_entropy == pytest.approx(want.head_entropy, rel=1e-10)


@pytest.fixture
def x():
    torch.manual_seed(4)
    return 2 * torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)


def make(**settings):
    torch.manual_seed(7)
    layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **settings).double()
    nn.init.normal_(layer.in_proj_bias)
    return layer


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_self_attention(x, need_weights, mode, dropout):
    layer = make(dropout=dropout)
    (site,) = measured(Reading(layer, need_weights=need_weights), x, mode).attention
    agrees(site, logits_of(layer, x, x))


@pytest.mark.parametrize("need_weights", [True, False])
def test_masks(x, need_weights):
    layer = make()
    hidden = ~causal(LENGTH, LENGTH)
    model = Reading(layer, need_weights=need_weights, key_padding_mask=PADDED, attn_mask=hidden)
    (site,) = measured(model, x).attention
    agrees(site, masked(logits_of(layer, x, x), ~hidden & ~PADDED[:, None, None]))


@pytest.mark.parametrize("need_weights", [True, False])
def test_causal_hint_with_its_mask(x, need_weights):
    layer = make()
    mask = nn.Transformer.generate_square_subsequent_mask(LENGTH, dtype=torch.float64)
    model = Reading(layer, need_weights=need_weights, attn_mask=mask, is_causal=True)
    (site,) = measured(model, x).attention
    agrees(site, masked(logits_of(layer, x, x), causal(LENGTH, LENGTH)))


def test_sequence_first(x):
    layer = make()
    layer.batch_first = False
    (site,) = measured(Reading(layer), x.transpose(0, 1)).attention
    agrees(site, logits_of(layer, x, x))


@pytest.mark.parametrize("need_weights", [True, False])
def test_cross_attention_with_other_widths(x, need_weights):
    layer = make(kdim=3, vdim=3)
    memory = torch.randn(2, 4, 3, dtype=torch.float64)
    (site,) = measured(Reading(layer, memory, need_weights=need_weights), x).attention
    agrees(site, logits_of(layer, x, memory))


def test_without_a_batch_axis(x):
    layer = make()
    (site,) = measured(Reading(layer), x[0]).attention
    agrees(site, logits_of(layer, x[:1], x[:1]))


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layer(x, mode, norm_first):
    """In eval mode without gradients torch would take one fused call for the whole layer."""
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True, norm_first=norm_first)
    layer = layer.double()
    found = measured(layer, x, mode)
    (site,) = found.attention
    seen = nn.functional.layer_norm(x, (WIDTH,)) if norm_first else x
    agrees(site, logits_of(layer.self_attn, seen, seen), name="self_attn")
    assert [norm.name for norm in found.norm] == ["norm1", "norm2"]


def test_encoder_with_padding(x):
    """In eval mode torch would pack the batch into a nested tensor."""
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, dropout=0.0, batch_first=True).double()
    encoder = nn.TransformerEncoder(layer, 2)

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, x):
            return self.encoder(x, src_key_padding_mask=PADDED)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors")
        found = measured(Padded(), x).attention
    layers = encoder.layers
    assert [site.name for site in found] == [f"encoder.layers.{i}.self_attn" for i in range(2)]
    agrees(
        found[0],
        masked(logits_of(layers[0].self_attn, x, x), ~PADDED[:, None, None]),
        name=found[0].name,
    )


def test_decoder_layer_has_two_sites(x):
    torch.manual_seed(1)
    layer = nn.TransformerDecoderLayer(WIDTH, HEADS, 16, batch_first=True, norm_first=True)
    layer = layer.double()
    memory = torch.randn(2, 3, WIDTH, dtype=torch.float64)

    class Decoding(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x, memory)

    own, cross = measured(Decoding(), x).attention
    seen = nn.functional.layer_norm(x, (WIDTH,))
    agrees(own, logits_of(layer.self_attn, seen, seen), name="layer.self_attn")
    with torch.no_grad():
        layer.eval()
        seen = layer.norm2(x + layer._sa_block(layer.norm1(x), None, None))
    agrees(cross, logits_of(layer.multihead_attn, seen, memory), name="layer.multihead_attn")


def test_a_layer_that_runs_twice_is_one_site_with_the_rows_of_both(x):
    layer = make()

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = layer

        def forward(self, x):
            x = self.attend(x, x, x)[0]
            return self.attend(x, x, x)[0]

    (site,) = measured(Twice(), x).attention
    layer.eval()
    with torch.no_grad():
        second = layer(x, x, x)[0]
    both = [logits_of(layer, y, y) for y in (x, second)]
    agrees(site, torch.cat(both))
