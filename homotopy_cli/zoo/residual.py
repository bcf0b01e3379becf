"""ResNet-18, -34 and -50 of He et al. 2016 (arXiv:1512.03385), under torchvision's names.

A state dict of torchvision's `resnet18`, `resnet34` or `resnet50` loads into these modules
key by key, if the stem is `imagenet`, the images have 3 channels and there are 1000 classes.
The stride of a bottleneck sits in its 3x3 convolution, as torchvision has it (version 1.5).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # paper, table 1
WIDTH = 64  # channels of the first stage
SMALL_IMAGE = 64  # pixels: up to here the stem keeps the resolution (our choice)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut is a 1x1 convolution where the shape changes."""

    expansion = 1

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(n_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, H, W) -> (B, width, H/stride, W/stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1 down to `width`, 3x3, 1x1 up to four times `width`."""

    expansion = 4

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        n_out = width * self.expansion
        self.conv1 = nn.Conv2d(n_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, n_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(n_out)
        self.downsample = _shortcut(n_in, n_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, H, W) -> (B, 4·width, H/stride, W/stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class DeepResNet(nn.Module):
    """Images (B, n_channels, H, W) -> scores (B, n_classes)."""

    def __init__(
        self,
        depth: int,
        n_channels: int,
        n_classes: int,
        *,
        stem: str = "imagenet",
        width: int = WIDTH,
        zero_init: bool = False,
    ) -> None:
        """
        Args:
            depth: 18, 34 or 50.
            stem: `imagenet`: 7x7 convolution of stride 2 and max pooling, H/4; `cifar`: one 3x3
                convolution that keeps the resolution.
            width: Channels of the first stage.
            zero_init: Each block starts as its shortcut: the last BatchNorm's weight is 0
                (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
        """
        super().__init__()
        block = Bottleneck if depth >= 50 else BasicBlock
        small = stem == "cifar"
        self.conv1 = nn.Conv2d(
            n_channels,
            width,
            3 if small else 7,
            stride=1 if small else 2,
            padding=1 if small else 3,
            bias=False,
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        n_in = width
        for stage, n_blocks in enumerate(STAGES[depth]):
            inner = width * 2**stage
            blocks: list[nn.Module] = []
            for index in range(n_blocks):
                blocks.append(block(n_in, inner, 2 if stage and not index else 1))
                n_in = inner * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(n_in, n_classes)
        self._initialise(zero_init)

    def _initialise(self, zero_init: bool) -> None:
        """Kaiming normal by fan-out; BatchNorm starts at weight 1 and bias 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init and isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)
            elif zero_init and isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def stem_for(stem: str, input_shape: tuple[int, ...]) -> str:
    """`stem`, or for `auto` the one that suits the images' size."""
    if stem != "auto":
        return stem
    return "cifar" if max(input_shape[1:]) <= SMALL_IMAGE else "imagenet"


def _shortcut(n_in: int, n_out: int, stride: int) -> nn.Module | None:
    if stride == 1 and n_in == n_out:
        return None
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False), nn.BatchNorm2d(n_out)
    )
