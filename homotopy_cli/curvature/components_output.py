"""How sure the output softmax is of its targets, over every cross entropy of the loss."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from homotopy_cli.curvature.components_attention import PIECE, widened
from homotopy_cli.curvature.components_sample import Sample
from homotopy_cli.records import CrossEntropyComponent


class OutputSite:
    """Target probabilities and log Z of the rows that count, all calls pooled.

    Label smoothing and weights change the loss, not the probability; a row whose weight is 0
    does not count. With class probabilities t as target, a row's p is exp(Σ t log p): its loss
    is -log p, as for an index, and both agree where t is one-hot. Rows with Σ t = 0 do not
    count. In a binary cross entropy each element is a row, a softmax over the logits 0 and z.
    """

    def __init__(self) -> None:
        self._p = Sample()
        self._log_z = 0.0
        self._max_logit = 0.0

    def add(self, logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> bool:
        """Take the arguments of one F.cross_entropy call; True if all logits were sound.

        Args:
            logits: (classes,), (rows, classes) or (rows, classes, ...).
            target: Class indices in the shape without classes, or probabilities in the same.
            weight: (classes,), or None for all 1.
            ignore_index: Indices equal to it do not count.
        """
        soft = target.is_floating_point()
        rows = _rows(logits)
        targets = _rows(target) if soft else target.reshape(-1)
        sound = True
        for piece in _pieces(*rows.shape):
            part = targets[piece]
            if soft:
                counts = (part if weight is None else part * weight).sum(-1) > 0
            else:
                counts = part != ignore_index
                if weight is not None:
                    counts &= weight[part.where(counts, 0).long()] != 0
            sound &= self._add_rows(widened(rows[piece][counts]), part[counts])
        return sound

    def add_binary(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> bool:
        """Take the arguments of one F.binary_cross_entropy_with_logits call.

        Args:
            logits: Any shape.
            target: Of the same, the probability of 1.
            weight: Broadcastable to it, or None for all 1.
        """
        z, t = logits.reshape(-1), target.reshape(-1)
        used = None if weight is None else (weight != 0).expand(logits.shape).reshape(-1)
        sound = True
        for piece in _pieces(z.numel(), 2):
            chosen, share = widened(z[piece]), widened(t[piece])
            if used is not None:
                chosen, share = chosen[used[piece]], share[used[piece]]
            both = torch.stack([torch.zeros_like(chosen), chosen], -1)
            sound &= self._add_rows(both, torch.stack([1 - share, share], -1))
        return sound

    def _add_rows(self, logits: Tensor, target: Tensor) -> bool:
        if not logits.numel():
            return True
        log_z = logits.logsumexp(-1)
        valid = log_z.isfinite()
        if target.is_floating_point():
            log_p = logits - log_z[:, None]
            chosen = torch.where(target > 0, target * log_p, 0.0).sum(-1)
        else:
            chosen = logits.gather(-1, target[:, None].long())[:, 0] - log_z
        valid &= ~chosen.isnan()
        sizes = logits[valid].abs()
        sizes = sizes[sizes.isfinite()]  # -inf is a class that is switched off
        if sizes.numel():
            self._max_logit = max(self._max_logit, sizes.max().item())
        self._log_z += log_z[valid].double().sum().item()
        self._p.add(chosen[valid].double().exp())
        return bool(valid.all())

    def absorb(self, other: "OutputSite") -> None:
        """Pool the rows of another rank."""
        self._p.absorb(other._p)
        self._log_z += other._log_z
        self._max_logit = max(self._max_logit, other._max_logit)

    def record(self) -> CrossEntropyComponent | None:
        """The output as plain numbers; None if no row counted."""
        if not self._p.count:
            return None
        p_min = self._p.smallest
        return CrossEntropyComponent(
            p_min=p_min,
            p_q001=self._p.quantile(0.001),
            p_q01=self._p.quantile(0.01),
            log_z_mean=self._log_z / self._p.count,
            max_logit=self._max_logit,
            seed_kappa=1 / p_min if p_min > 1e-308 else None,
        )


def normalised(log_probabilities: Tensor) -> bool:
    """The first row sums to one over classes: the log_softmax was over the right axis."""
    rows = _rows(log_probabilities)
    return bool(rows.numel()) and math.isclose(widened(rows[0]).exp().sum().item(), 1, abs_tol=1e-2)


def _rows(values: Tensor) -> Tensor:
    """(rows, classes) from torch's (classes,), (rows, classes) or (rows, classes, ...)."""
    return values[None] if values.ndim == 1 else values.movedim(1, -1).flatten(0, -2)


def _pieces(n_rows: int, n_classes: int) -> Iterator[slice]:
    step = max(1, PIECE // max(1, n_classes))
    for start in range(0, n_rows, step):
        yield slice(start, start + step)
