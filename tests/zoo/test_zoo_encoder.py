"""Encoders over tokens and patches: counts, attention in both directions, padding, ViT."""

import pytest
import torch
from torch import nn

from homotopy_cli.errors import ProblemError
from homotopy_cli.recipe.models import Encoder as EncoderSpec
from homotopy_cli.recipe.models import Vit
from homotopy_cli.zoo.data import DataInfo
from homotopy_cli.zoo.encoder import Encoder
from homotopy_cli.zoo.registry import build_model

MASKED = DataInfo("masked", "text", vocab_size=12, context=10, input_shape=(10,))
ROWS = DataInfo("classes", "rows", n_classes=3, vocab_size=12, context=10, input_shape=(10,), pad=0)
IMAGES = DataInfo("classes", "images", n_classes=10, input_shape=(3, 32, 32))
LARGE = DataInfo("classes", "images", n_classes=1000, input_shape=(3, 224, 224))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_encoder_shapes_and_parameter_count(norm):
    model = build_model(EncoderSpec(layers=2, heads=2, width=8, norm=norm), MASKED)
    assert model(torch.randint(12, (3, 10))).shape == (3, 10, 12)
    w = 8
    block = (3 * w * w + 3 * w) + (w * w + w) + (8 * w * w + 5 * w) + 4 * w
    head = w * 12 + 12
    assert count(model) == 12 * w + 10 * w + 2 * block + (norm == "pre") * 2 * w + head
    with pytest.raises(ValueError, match="11 tokens, but the model's context is 10"):
        model(torch.zeros(1, 11, dtype=torch.int64))


def test_every_position_sees_every_other():
    model = build_model(EncoderSpec(layers=1, heads=2, width=8), MASKED).double()
    torch.nn.init.normal_(model.token.weight)
    tokens = torch.randint(12, (1, 10))
    changed = tokens.clone()
    changed[0, 9] = (changed[0, 9] + 1) % 12
    difference = (model(tokens) - model(changed)).abs().amax(dim=-1)[0]
    assert (difference > 0).all()


def test_padding_changes_nothing():
    """A short row alone, and the same row filled up: equal scores, float64."""
    model = build_model(EncoderSpec(layers=2, heads=2, width=8), ROWS).double()
    short = torch.randint(1, 12, (4, 6))
    padded = torch.cat([short, torch.zeros(4, 4, dtype=torch.int64)], dim=1)
    assert model(padded).shape == (4, 3)
    torch.testing.assert_close(model(padded), model(short), rtol=1e-12, atol=1e-12)
    empty = torch.zeros(1, 10, dtype=torch.int64)
    assert torch.isfinite(model(torch.cat([padded, empty]))).all()
    blind = Encoder(12, 3, pooled=True, layers=2, heads=2, width=8, context=10).double()
    assert not torch.allclose(blind(padded), blind(short))


def test_vit_tiny_has_the_size_of_its_authors():
    """5,717,416 parameters: ViT-Ti/16 at 224 pixels, 1000 classes (timm's vit_tiny_patch16_224)."""
    with torch.device("meta"):
        assert count(build_model(Vit(), LARGE)) == 5_717_416


def test_vit_on_small_images():
    model = build_model(Vit(layers=2, heads=2, width=16), IMAGES)
    assert model.patches.kernel_size == (4, 4)
    assert model.position.shape == (1, 65, 16)
    images = torch.randn(2, 3, 32, 32)
    assert model(images).shape == (2, 10)
    tokens = model.patches(images).flatten(2).transpose(1, 2)
    by_hand = torch.stack(
        [
            (images[:, None, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] * model.patches.weight)
            .flatten(2)
            .sum(-1)
            for i in range(8)
            for j in range(8)
        ],
        dim=1,
    )
    torch.testing.assert_close(tokens, by_hand + model.patches.bias, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit():
    with pytest.raises(ProblemError) as caught:
        build_model(Vit(patch=5), IMAGES)
    assert caught.value.message == "model.patch 5 does not divide images of 32x32 pixels"
    assert caught.value.hint == "--set model.patch=32"
    with pytest.raises(ProblemError) as caught:
        build_model(EncoderSpec(), IMAGES)
    assert caught.value.message == "model encoder wants tokens, the data are classes: images"
    with pytest.raises(ProblemError, match="model gpt wants tokens, the data are masked: text"):
        from homotopy_cli.recipe.models import Gpt

        build_model(Gpt(), MASKED)
