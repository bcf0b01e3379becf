"""Mirrors and shifts: each image is one of the candidates that can be listed."""

import torch
import torch.nn.functional as F

from homotopy_cli.zoo.augment import flipped, shifted
from homotopy_cli.zoo.randomness import keyed_generator


def test_each_image_is_mirrored_or_not():
    images = torch.arange(200 * 12.0).reshape(200, 1, 3, 4)
    found = flipped(images, keyed_generator(1))
    mirrored = (found == images.flip(-1)).flatten(1).all(1)
    same = (found == images).flatten(1).all(1)
    assert torch.equal(mirrored, ~same)
    assert abs(int(mirrored.sum()) - 100) <= 4 * (200 * 0.25) ** 0.5  # 4 standard deviations
    assert torch.equal(flipped(images, keyed_generator(1)), found)


def test_each_image_is_one_of_the_cuts_of_its_padded_self():
    images = 1 + torch.arange(300 * 24.0).reshape(300, 2, 3, 4)
    found = shifted(images, 2, keyed_generator(3))
    assert found.shape == images.shape
    seen = set()
    for image, cut in zip(images, found, strict=True):
        padded = F.pad(image, (2, 2, 2, 2))
        places = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(padded[:, top : top + 3, left : left + 4], cut)
        ]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == 25  # 300 draws miss one of 25 places with probability below 2e-4
    assert torch.equal(shifted(images, 2, keyed_generator(3)), found)
    assert not torch.equal(shifted(images, 2, keyed_generator(4)), found)


def test_no_padding_is_no_change():
    images = torch.randn(3, 1, 4, 4)
    assert torch.equal(shifted(images, 0, keyed_generator(0)), images)
