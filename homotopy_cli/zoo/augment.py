"""Random changes of a batch of images, drawn from a given generator: no state of their own."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def flipped(images: Tensor, generator: Generator) -> Tensor:
    """Each image (B, C, H, W) mirrored left to right with probability 1/2."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def shifted(images: Tensor, padding: int, generator: Generator) -> Tensor:
    """Each image padded by `padding` zeros on every side, then cut to its size at random.

    The usual augmentation of CIFAR-10 (He et al. 2016, section 4.2) has padding 4. The zeros
    are in the images' own unit: with scaled images, the channel's mean.
    """
    n, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    top, left = torch.randint(2 * padding + 1, (2, n, 1), generator=generator)
    rows = (top + torch.arange(height))[:, None, :, None]  # (B, 1, H, 1)
    columns = (left + torch.arange(width))[:, None, None, :]  # (B, 1, 1, W)
    image = torch.arange(n)[:, None, None, None]
    channel = torch.arange(channels)[None, :, None, None]
    return padded[image, channel, rows, columns]
