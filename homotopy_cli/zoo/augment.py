"""Random changes of images, from a given generator or given draws: no state of their own."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

KEPT = 0.875  # share of the shorter side that a square crop keeps
LEAST_AREA, RATIO = 0.08, 4 / 3  # of a resized crop


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


def crop_box(
    size: tuple[int, int], how: str, draws: Sequence[float]
) -> tuple[float, float, float, float]:
    """The part of an image that is cut out: (left, top, right, bottom) in pixels.

    Args:
        size: (width, height), pixels.
        how: `center`: the middle square of 0.875 of the shorter side, ImageNet's custom for
            evaluation (224 of 256); `random`: such a square anywhere; `resized`: 8 to 100 % of
            the area, sides at 3:4 to 4:3 (Szegedy et al. 2015, arXiv:1409.4842, section 6).
        draws: Four numbers in [0, 1): place across, place down, area, ratio.
    """
    width, height = size
    across = down = KEPT * min(width, height)
    if how == "resized":
        area = (LEAST_AREA + (1 - LEAST_AREA) * draws[2]) * width * height
        ratio = RATIO ** (2 * draws[3] - 1)
        across, down = min(width, math.sqrt(area * ratio)), min(height, math.sqrt(area / ratio))
    place = (0.5, 0.5) if how == "center" else draws
    left, top = place[0] * (width - across), place[1] * (height - down)
    return left, top, left + across, top + down
