"""Signal fraction: which share of a batch's gradient is signal, from a slice of that batch.

A batch of B rows has g_B = G + noise of variance Σ/B, a slice of b of its rows g_b = G + noise of
variance Σ/b. In the metric P⁻¹, with ⟨g_B, g_b⟩ ≈ |g_B|² because the slice is part of the batch,

    1/cos²(g_B, g_b) = |g_b|²/|g_B|²  and so  c = 1 - (1/cos² - 1)/(B/b - 1)

estimates |G|²/E|g_B|² = 1/(1 + B_noise/B): the cosine between g_B and an independent batch of
the same size (McCandlish et al. 2018, arXiv:1812.06162, with the scale of g_B taken out, so that
clipping and loss scaling change nothing). It costs three dot products and one wait for the
device. Other dropout masks in the slice's gradient count as noise.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from homotopy_cli.curvature.backward import dense
from homotopy_cli.problems.sharded import full

LEAST = 0.02  # c: a slice says no more; our choice


class Alignment:
    """Called with the slice's gradient; compares it with the one in `.grad`.

    Args:
        params: Live parameters, whose `.grad` is the batch's.
        diagonal: P, shape (n,); None for I.
    """

    def __init__(self, params: Sequence[Tensor], diagonal: Tensor | None) -> None:
        self.params, self.diagonal = params, diagonal
        self.cosine = math.nan

    def __call__(self, gradient: Tensor) -> None:
        """Take g of the slice, shape (n,), in the order of the parameters."""
        at, dots = 0, []
        for parameter in self.params:
            piece = gradient[at : at + parameter.numel()]
            scale = None if self.diagonal is None else self.diagonal[at : at + parameter.numel()]
            at += parameter.numel()
            if parameter.grad is None:
                continue
            whole = dense(full(parameter.grad.detach())).reshape(-1).to(piece.dtype)
            scaled = piece if scale is None else piece / scale
            other = whole if scale is None else whole / scale
            dots += [torch.dot(scaled, whole), torch.dot(scaled, piece), torch.dot(other, whole)]
        both, mine, theirs = 0.0, 0.0, 0.0
        answers = torch.stack(dots).view(-1, 3).tolist() if dots else []  # one to wait for
        for products in answers:  # float64, one after the other: sum() compensates since 3.12
            both, mine, theirs = both + products[0], mine + products[1], theirs + products[2]
        if mine > 0.0 and theirs > 0.0:
            self.cosine = both / math.sqrt(mine) / math.sqrt(theirs)

    def signal_fraction(self, share: float) -> float:
        """c in [LEAST, 1] for a slice of `share` of the rows; NaN where nothing tells it."""
        if not share < 1.0 or not math.isfinite(self.cosine):
            return math.nan
        if self.cosine <= 0.0:
            return LEAST
        return min(1.0, max(LEAST, 1.0 - (self.cosine**-2 - 1.0) / (1.0 / share - 1.0)))


class Excess:
    """Called with the slice's gradient; `value` is ‖.grad‖ over its norm.

    Args:
        params: Live parameters; those without a gradient are left out of both lengths.
    """

    def __init__(self, params: Sequence[Tensor] = ()) -> None:
        self.params = params
        self.value = 1.0

    def __call__(self, gradient: Tensor) -> None:
        """Take g of the slice, shape (n,), in the order of the parameters."""
        at, mine, theirs = 0, [], []
        for parameter in self.params:
            piece = gradient[at : at + parameter.numel()]
            at += parameter.numel()
            if parameter.grad is not None:
                whole = dense(full(parameter.grad.detach()))
                mine.append(torch.linalg.vector_norm(piece).float())
                theirs.append(torch.linalg.vector_norm(whole.float()))
        if mine:
            lengths = torch.stack([torch.stack(mine).norm(), torch.stack(theirs).norm()])
            own, other = lengths.tolist()
            self.value = other / own if own > 0.0 else 1.0
