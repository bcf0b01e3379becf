"""ResNet-18, -34 and -50 against transformers' own ResNet, and under torchvision's names."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from homotopy_cli.errors import ProblemError
from homotopy_cli.recipe.models import ResNet18, ResNet34, ResNet50
from homotopy_cli.zoo.data import DataInfo
from homotopy_cli.zoo.registry import build_model
from homotopy_cli.zoo.residual import STAGES, DeepResNet

SMALL = DataInfo("classes", "images", n_classes=10, input_shape=(3, 32, 32))
LARGE = DataInfo("classes", "images", n_classes=1000, input_shape=(3, 224, 224))
SPECS = {18: ResNet18, 34: ResNet34, 50: ResNet50}
# torchvision's documentation of resnet18_weights, resnet34_weights, resnet50_weights
PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032}


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("depth", SPECS)
def test_names_and_sizes_are_torchvision_s(depth):
    with torch.device("meta"):
        model = build_model(SPECS[depth](), LARGE)
    assert count(model) == PARAMETERS[depth]
    state = model.state_dict()
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = ["conv1.weight", *(f"bn1.{part}" for part in norm)]
    for stage, n_blocks in enumerate(STAGES[depth], start=1):
        for block in range(n_blocks):
            name = f"layer{stage}.{block}"
            for index in (1, 2, 3) if depth == 50 else (1, 2):
                expected.append(f"{name}.conv{index}.weight")
                expected += [f"{name}.bn{index}.{part}" for part in norm]
            if block == 0 and (stage > 1 or depth == 50):
                expected.append(f"{name}.downsample.0.weight")
                expected += [f"{name}.downsample.1.{part}" for part in norm]
    assert list(state) == [*expected, "fc.weight", "fc.bias"]
    assert state["conv1.weight"].shape == (64, 3, 7, 7)
    wide = (512, 2048, 1, 1) if depth == 50 else (512, 512, 3, 3)
    assert state["layer4.1.conv1.weight"].shape == wide


def _by_transformers(model: DeepResNet, depth: int) -> nn.Module:
    """transformers' ResNet with the same weights: an implementation that shares no code."""
    bottleneck = depth == 50
    widths = [16, 32, 64, 128]
    other = ResNetForImageClassification(
        ResNetConfig(
            embedding_size=4 if bottleneck else 16,
            hidden_sizes=widths,
            depths=list(STAGES[depth]),
            layer_type="bottleneck" if bottleneck else "basic",
            num_labels=7,
        )
    ).double()
    renamed = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if parts[0] in ("conv1", "bn1"):
            kind = "convolution" if parts[0] == "conv1" else "normalization"
            renamed[f"resnet.embedder.embedder.{kind}.{parts[-1]}"] = tensor
        elif parts[0] == "fc":
            renamed[f"classifier.1.{parts[-1]}"] = tensor
        else:
            place = f"resnet.encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}"
            if parts[2] == "downsample":
                part, kind = "shortcut", ("convolution", "normalization")[int(parts[3])]
            else:
                part = f"layer.{int(parts[2][-1]) - 1}"
                kind = "convolution" if parts[2].startswith("conv") else "normalization"
            renamed[f"{place}.{part}.{kind}.{parts[-1]}"] = tensor
    other.load_state_dict(renamed)
    return other


@pytest.mark.parametrize("depth", SPECS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_scores_are_those_of_another_implementation(depth, mode):
    """Oracle: transformers' ResNet, float64."""
    torch.manual_seed(0)
    width = 4 if depth == 50 else 16
    model = DeepResNet(depth, 3, 7, width=width).double()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    images = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    other = _by_transformers(model, depth).train(mode == "train")
    model.train(mode == "train")
    expected = other(images).logits
    torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 0.01


def test_stems():
    model = build_model(ResNet18(width=4), SMALL)
    assert model.conv1.kernel_size == (3, 3)
    features = model.maxpool(F.relu(model.bn1(model.conv1(torch.randn(1, 3, 32, 32)))))
    assert features.shape == (1, 4, 32, 32)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    stemmed = build_model(ResNet18(width=4, stem="imagenet"), SMALL)
    assert stemmed.conv1.kernel_size == (7, 7)
    assert build_model(ResNet18(width=4), LARGE).conv1.stride == (2, 2)


@pytest.mark.parametrize("depth", [18, 50])
def test_zero_init_makes_each_block_its_shortcut(depth):
    model = build_model(SPECS[depth](width=4, zero_init=True), SMALL).train()
    block = model.layer1[1]
    x = torch.rand(2, 4 if depth == 18 else 16, 8, 8)  # positive: the last ReLU changes nothing
    assert torch.equal(block(x), x)
    plain = build_model(SPECS[depth](width=4), SMALL).train()
    assert not torch.equal(plain.layer1[1](x), x)


def test_rows_are_not_images():
    rows = DataInfo("classes", "rows", n_classes=3, input_shape=(5,))
    with pytest.raises(ProblemError) as caught:
        build_model(ResNet50(), rows)
    assert caught.value.message == (
        "resnet50 wants images (channels, height, width), the data have shape [5]"
    )
