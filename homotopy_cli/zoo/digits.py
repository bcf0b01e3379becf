"""scikit-learn's handwritten digits: small images that come with a library. Extra `digits`."""

import torch

from homotopy_cli.recipe.datasets import DigitsData
from homotopy_cli.zoo.data import Rows
from homotopy_cli.zoo.extras import extra
from homotopy_cli.zoo.npz import array_rows


def build_digits(spec: DigitsData, dtype: torch.dtype) -> Rows:
    """1,797 images (B, 1, 8, 8) of pixels in [0, 1], labels 0..9 (Alpaydin & Kaynak 1998, UCI).

    Raises:
        ProblemError: scikit-learn is not installed.
    """
    with extra("digits", library="scikit-learn", wanted_by="data digits"):
        from sklearn.datasets import load_digits
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).to(dtype).reshape(-1, 1, 8, 8) / 16
    return array_rows(
        images, torch.from_numpy(labels).long(), holdout=spec.holdout, origin="digits"
    )
