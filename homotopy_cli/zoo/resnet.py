"""The CIFAR ResNet of He et al. 2016 (arXiv:1512.03385, section 4.2)."""

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm; the shortcut subsamples and pads with zeros."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.stride, self.n_new = stride, n_out - n_in
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, H, W) -> (B, n_out, H/stride, W/stride)."""
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(out + F.pad(shortcut, (0, 0, 0, 0, 0, self.n_new)))


class ResNet(nn.Module):
    """Images (B, n_channels, H, W) -> scores (B, n_classes); depth = 6n + 2."""

    def __init__(self, depth: int, width: int, n_channels: int, n_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(n_channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        n_in = width
        for stage in range(3):
            n_out = width * 2**stage
            for index in range((depth - 2) // 6):
                blocks.append(Block(n_in, n_out, 2 if stage and not index else 1))
                n_in = n_out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(n_in, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        x = F.relu(self.norm(self.stem(images)))
        return self.head(self.blocks(x).mean(dim=(2, 3)))
