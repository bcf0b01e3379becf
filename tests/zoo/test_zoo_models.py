"""Models: shapes, variants, initialisation, and the quadratic in closed form."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from homotopy_cli.errors import ProblemError
from homotopy_cli.recipe.models import Gpt, Mlp, Quadratic, ResNet, UserModel
from homotopy_cli.zoo.data import DataInfo
from homotopy_cli.zoo.gpt import GPT
from homotopy_cli.zoo.registry import build_model

TOKENS = DataInfo("tokens", "some text", vocab_size=11, context=12, input_shape=(12,))
IMAGES = DataInfo("classes", "images", n_classes=10, input_shape=(3, 32, 32))
ROWS = DataInfo("classes", "rows", n_classes=3, input_shape=(5,))
NUMBERS = DataInfo("regression", "numbers", input_shape=(2, 2), target_shape=(3,))
TILTS = DataInfo("none", "tilts", n_rows=64, noise=0.5)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_gpt_shapes_and_parameter_count(norm, tied, qk_norm):
    spec = Gpt(layers=2, heads=2, width=8, norm=norm, tied=tied, qk_norm=qk_norm)
    model = build_model(spec, TOKENS)
    tokens = torch.randint(11, (3, 12))
    assert model(tokens).shape == (3, 12, 11)
    assert model(tokens[:, :5]).shape == (3, 5, 11)
    w, v, c = 8, 11, 12
    block = (3 * w * w + 3 * w) + (w * w + w) + (8 * w * w + 5 * w) + 4 * w + qk_norm * 4 * (w // 2)
    expected = v * w + c * w + 2 * block + (norm == "pre") * 2 * w + (not tied) * v * w
    assert count(model) == expected
    assert (model.head.weight is model.token.weight) == tied
    assert len(list(model.named_parameters())) == len({id(p) for p in model.parameters()})


def test_gpt_is_causal():
    model = build_model(Gpt(layers=2, heads=2, width=8), TOKENS).eval()
    tokens = torch.randint(11, (1, 12))
    changed = tokens.clone()
    changed[0, 7:] = (changed[0, 7:] + 1) % 11
    a, b = model(tokens), model(changed)
    torch.testing.assert_close(a[:, :7], b[:, :7])
    assert not torch.allclose(a[:, 7:], b[:, 7:])


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_gpt_against_a_forward_pass_written_out(norm):
    """Oracle: attention by explicit softmax, one head at a time, in float64."""
    model = GPT(7, layers=1, heads=2, width=6, context=5, norm=norm).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    block = model.blocks[0]

    def layer_norm(x, module):
        centred = x - x.mean(-1, keepdim=True)
        variance = (centred**2).mean(-1, keepdim=True)
        return centred / torch.sqrt(variance + 1e-5) * module.weight + module.bias

    def attention(x):
        q, k, v = (x @ block.attention.qkv.weight.T + block.attention.qkv.bias).split(6, dim=-1)
        heads = []
        for h in (slice(0, 3), slice(3, 6)):
            scores = q[0, :, h] @ k[0, :, h].T / math.sqrt(3)
            scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
            weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
            heads.append(weights @ v[0, :, h])
        out = torch.cat(heads, dim=-1)[None]
        return out @ block.attention.out.weight.T + block.attention.out.bias

    def feed_forward(x):
        up = x @ block.feed_forward.up.weight.T + block.feed_forward.up.bias
        gelu = 0.5 * up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
        return gelu @ block.feed_forward.down.weight.T + block.feed_forward.down.bias

    x = (model.token.weight[tokens[0]] + model.position.weight)[None]
    if norm == "pre":
        x = x + attention(layer_norm(x, block.norm1))
        x = x + feed_forward(layer_norm(x, block.norm2))
        x = layer_norm(x, model.norm)
    else:
        x = layer_norm(x + attention(x), block.norm1)
        x = layer_norm(x + feed_forward(x), block.norm2)
    torch.testing.assert_close(model(tokens), x @ model.token.weight.T, rtol=1e-10, atol=1e-10)


def test_gpt_starts_near_the_uniform_guess():
    model = GPT(96, layers=4, heads=4, width=64, context=64)
    tokens = torch.randint(96, (8, 65))
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss.item() - math.log(96)) < 0.1
    residual = model.blocks[0].attention.out.weight
    n = residual.numel()
    for weight, std in (
        (model.token.weight, 0.02),
        (residual, 0.02 / math.sqrt(8)),
        (model.blocks[3].feed_forward.down.weight, 0.02 / math.sqrt(8)),
    ):
        n = weight.numel()
        assert abs(weight.std().item() / std - 1) < 5 / math.sqrt(2 * n)  # 5 standard errors


def test_gpt_xavier_initialisation():
    """Glorot & Bengio 2010: uniform in ±√(6/(fan_in + fan_out)), in every linear layer."""
    model = build_model(Gpt(layers=3, heads=2, width=32, init="xavier", tied=False), TOKENS)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            bound = math.sqrt(6 / sum(module.weight.shape))
            assert 0.9 * bound < module.weight.abs().max().item() <= bound, name
            assert module.bias is None or not module.bias.any()
    assert abs(model.position.weight.std().item() / 0.02 - 1) < 0.2


def test_gpt_dropout_acts_in_training_only():
    model = build_model(Gpt(layers=1, heads=1, width=8, dropout=0.5), TOKENS)
    tokens = torch.randint(11, (2, 12))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_gpt_context():
    model = build_model(Gpt(layers=1, heads=1, width=8, context=20), TOKENS)
    assert model.position.weight.shape == (20, 8)
    with pytest.raises(ValueError, match="21 tokens, but the model's context is 20"):
        model(torch.zeros(1, 21, dtype=torch.int64))
    with pytest.raises(ProblemError, match=r"model\.context 8 is shorter than data\.context 12"):
        build_model(Gpt(context=8), TOKENS)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "silu"])
def test_mlp(activation):
    model = build_model(Mlp(hidden=[7, 6], activation=activation, dropout=0.1), ROWS)
    assert count(model) == 5 * 7 + 7 + 7 * 6 + 6 + 6 * 3 + 3
    assert model(torch.randn(4, 5)).shape == (4, 3)
    assert model(torch.randint(9, (4, 5))).shape == (4, 3)
    regression = build_model(Mlp(hidden=[]), NUMBERS)
    assert count(regression) == 4 * 3 + 3
    assert regression(torch.randn(6, 2, 2)).shape == (6, 3)
    assert build_model(Mlp(), IMAGES)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_resnet_20_is_the_paper_s():
    model = build_model(ResNet(depth=20, width=16), IMAGES)
    assert round(count(model) / 1e6, 2) == 0.27  # He et al. 2016, table 6
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == 20
    model.eval()
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    features = model.blocks(F.relu(model.norm(model.stem(torch.randn(1, 3, 32, 32)))))
    assert features.shape == (1, 64, 8, 8)


def test_resnet_has_a_second_derivative():
    model = build_model(ResNet(depth=8, width=2), IMAGES)
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4))
    params = list(model.parameters())
    grads = torch.autograd.grad(loss, params, create_graph=True)
    product = torch.autograd.grad(sum((g * g).sum() for g in grads), params)
    assert all(torch.isfinite(p).all() for p in product)


@pytest.mark.parametrize("rotated", [True, False])
def test_the_quadratic_has_the_hessian_it_claims(rotated):
    """Oracle: torch.autograd.functional.hessian + eigvalsh against the closed form, float64."""
    spec = Quadratic(dim=12, condition=1000, largest=3.0, rotated=rotated)
    model = build_model(spec, TILTS).double()
    rows = torch.arange(64)

    def loss(theta):
        return torch.func.functional_call(model, {"theta": theta}, (rows,))["loss"]

    hessian = torch.autograd.functional.hessian(loss, model.theta.detach())
    found = torch.linalg.eigvalsh(hessian)
    closed_form = 3.0 / 1000 * 1000 ** (torch.arange(12, dtype=torch.float64) / 11)
    torch.testing.assert_close(found, closed_form, rtol=1e-6, atol=1e-9)  # stored as float32
    torch.testing.assert_close(found, model.eigenvalues, rtol=1e-10, atol=1e-13)
    off_diagonal = hessian - torch.diag(hessian.diag())
    assert (off_diagonal.abs().max() > 0.01) == rotated
    assert loss(torch.zeros(12, dtype=torch.float64)).item() == 0.0


def test_the_quadratic_s_noise_averages_out():
    model = build_model(Quadratic(dim=50), TILTS).double()
    exact = model()["loss"]
    torch.testing.assert_close(model(torch.arange(64))["loss"], exact, rtol=0, atol=1e-6)
    (mean_grad,) = torch.autograd.grad(exact, model.theta)
    rows = [
        torch.autograd.grad(model(torch.tensor([row]))["loss"], model.theta)[0] - mean_grad
        for row in range(64)
    ]
    std = torch.stack(rows).std().item()
    assert abs(std / 0.5 - 1) < 5 / math.sqrt(2 * 64 * 50)  # 5 standard errors


def test_one_dimension():
    model = build_model(Quadratic(dim=1, largest=4.0), TILTS)
    assert model.eigenvalues.tolist() == [4.0]
    expected = 2.0 * model.theta.detach().square().sum()
    torch.testing.assert_close(model()["loss"].detach(), expected)


@pytest.mark.parametrize(
    ("spec", "info", "words"),
    [
        (Gpt(), ROWS, "model gpt wants tokens, the data are classes: rows"),
        (Mlp(), TOKENS, "model mlp wants classes or regression, the data are tokens: some text"),
        (ResNet(), NUMBERS, "model resnet wants classes, the data are regression"),
        (ResNet(), ROWS, "resnet wants images (channels, height, width), the data have shape [5]"),
        (Quadratic(), ROWS, "model quadratic wants none, the data are classes"),
        (Mlp(), TILTS, "the data are none: tilts"),
    ],
)
def test_a_model_that_does_not_fit_its_data(spec, info, words):
    with pytest.raises(ProblemError) as caught:
        build_model(spec, info)
    assert words in caught.value.message
    assert caught.value.hint


def test_user_models(tmp_path):
    (tmp_path / "model.py").write_text(
        "from torch import nn\n"
        "def build(n=3): return nn.Linear(n, 1)\n"
        "def wrong(): return 5\n"
        "def broken(): raise RuntimeError('first\\nsecond')\n"
    )
    assert count(build_model("model.py:build", ROWS, base_dir=tmp_path)) == 4
    spec = UserModel(name="model.py:build", n=9)
    assert count(build_model(spec, ROWS, base_dir=tmp_path)) == 10
    for name, words in (
        ("wrong", "returned int, not a torch.nn.Module"),
        ("broken", "failed: RuntimeError: first"),
    ):
        with pytest.raises(ProblemError) as caught:
            build_model(f"model.py:{name}", ROWS, base_dir=tmp_path)
        assert words in caught.value.message
        assert "\n" not in caught.value.message


def test_the_same_seed_builds_the_same_weights():
    def weights():
        torch.manual_seed(5)
        model = build_model(Gpt(layers=1, heads=1, width=8), TOKENS)
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(weights(), weights())
