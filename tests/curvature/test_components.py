"""Components against attention, norms and cross entropy written out by hand. float64."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from homotopy_cli.curvature.components import measure_components
from homotopy_cli.problems.problem import Problem
from homotopy_cli.records import Components


class Attending(nn.Module):
    """Embedding, LayerNorm, causal attention under the functional call, a head."""

    def __init__(self, heads: int = 2, width: int = 8, vocabulary: int = 7) -> None:
        super().__init__()
        self.heads = heads
        self.token = nn.Embedding(vocabulary, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, vocabulary)

    def split(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).split(width, dim=-1)
        shape = (batch, length, self.heads, width // self.heads)
        return [t.view(shape).transpose(1, 2) for t in (q, k, v)]

    def forward(self, tokens):
        x = self.token(tokens)
        q, k, v = self.split(x)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(x + y.transpose(1, 2).flatten(2))


@pytest.fixture
def attending():
    torch.manual_seed(3)
    model = Attending().double()
    tokens = torch.randint(7, (3, 6))
    targets = torch.randint(7, (3, 6))
    targets[0, :2] = -100
    return model, (tokens, targets)


def test_attention_by_hand(attending):
    model, (tokens, targets) = attending
    found = measure_components(Problem.from_module(model, "cross_entropy", [(tokens, targets)]))
    (site,) = found.attention
    with torch.no_grad():
        q, k, _ = model.split(model.token(tokens))
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        seen = torch.ones(6, 6, dtype=torch.bool).tril()
        weights = logits.masked_fill(~seen, -math.inf).softmax(-1)
        entropy = -torch.special.xlogy(weights, weights).sum(-1)
    assert site.n_heads == 2
    assert site.max_logit == pytest.approx(logits[..., seen].max().item(), rel=1e-12)
    assert site.entropy == pytest.approx(entropy.mean().item(), rel=1e-12)
    assert site.head_entropy == pytest.approx(entropy.mean((0, 2)).tolist(), rel=1e-12)
    assert site.seed_kappa == pytest.approx(math.exp(2 * site.max_logit), rel=1e-12)


def test_layer_norm_by_hand(attending):
    model, batch = attending
    found = measure_components(Problem.from_module(model, "cross_entropy", [batch]))
    (norm,) = found.norm
    variance = model.token(batch[0]).detach().var(-1, unbiased=False)
    assert norm.name == "norm" and norm.kind == "LayerNorm"
    assert norm.sigma_min == pytest.approx(variance.min().sqrt().item(), rel=1e-12)
    assert norm.eps_over_var == pytest.approx(1e-5 / variance.min().item(), rel=1e-12)
    assert norm.seed_kappa == pytest.approx(1 / variance.min().item(), rel=1e-12)


def test_cross_entropy_leaves_ignored_targets_out(attending):
    model, (tokens, targets) = attending
    problem = Problem.from_module(model, "cross_entropy", [(tokens, targets)])
    found = measure_components(problem).cross_entropy
    with torch.no_grad():
        scores = model(tokens).flatten(0, 1)
    kept = targets.flatten() != -100
    p = scores.softmax(-1)[torch.arange(18), targets.flatten().clamp(min=0)][kept]
    assert found.p_min == pytest.approx(p.min().item(), rel=1e-12)
    assert found.log_z_mean == pytest.approx(scores.logsumexp(-1)[kept].mean().item(), rel=1e-12)
    assert found.seed_kappa == pytest.approx(1 / p.min().item(), rel=1e-12)


def test_several_batches_are_pooled(attending):
    model, (tokens, targets) = attending
    whole = Problem.from_module(model, "cross_entropy", [(tokens, targets)])
    parts = [(tokens[:2], targets[:2]), (tokens[2:], targets[2:])]
    a = measure_components(whole)
    b = measure_components(Problem.from_module(model, "cross_entropy", parts))
    assert a.attention[0].entropy == pytest.approx(b.attention[0].entropy, rel=1e-12)
    assert a.attention[0].max_logit == pytest.approx(b.attention[0].max_logit, rel=1e-12)
    assert a.norm[0].sigma_min == pytest.approx(b.norm[0].sigma_min, rel=1e-12)
    assert a.cross_entropy.p_min == pytest.approx(b.cross_entropy.p_min, rel=1e-12)


def test_torchs_own_encoder_layer_is_seen_in_eval_mode():
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        _, weights = layer.self_attn(x, x, x, need_weights=True, average_attn_weights=False)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(40, 3)).double()
    found = measure_components(
        Problem.from_module(model, "cross_entropy", [(x, torch.tensor([0, 2]))])
    )
    entropy = -torch.special.xlogy(weights, weights).sum(-1).mean().item()
    (site,) = found.attention
    assert site.entropy == pytest.approx(entropy, rel=1e-10)
    assert {norm.kind for norm in found.norm} == {"LayerNorm"} and len(found.norm) == 2


def test_nothing_there_is_nothing_said():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    batch = (torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64))
    assert measure_components(Problem.from_module(model, "mse", [batch])) == Components()


def test_no_trace_is_left(attending):
    model, batch = attending
    model.train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    measure_components(Problem.from_module(model, "cross_entropy", [batch]))
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
