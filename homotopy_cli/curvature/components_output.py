"""How sure the output softmax is of its targets, over every cross entropy of the loss."""

import math

import torch
from torch import Tensor

from homotopy_cli.curvature.components_attention import PIECE, widened
from homotopy_cli.curvature.components_sample import Sample
from homotopy_cli.records import CrossEntropyComponent


class OutputSite:
    """Target probabilities and log Z of the rows that count, all calls pooled.

    Class weights and label smoothing change the loss, not the probability, and are not used.
    With class probabilities t as target, a row's p is exp(Σ t log p): its loss is -log p, as
    for an index, and both agree where t is one-hot. Rows with Σ t = 0 do not count.
    """

    def __init__(self) -> None:
        self._p = Sample()
        self._log_z = 0.0
        self._max_logit = 0.0

    def add(self, logits: Tensor, target: Tensor, ignore_index: int) -> bool:
        """Take the arguments of one F.cross_entropy call; True if all logits were sound.

        Args:
            logits: (classes,), (rows, classes) or (rows, classes, ...).
            target: Class indices in the shape without classes, or probabilities in the same.
        """
        soft = target.is_floating_point()
        rows = _rows(logits)
        targets = _rows(target) if soft else target.reshape(-1)
        sound, step = True, max(1, PIECE // max(1, rows.shape[-1]))
        for start in range(0, rows.shape[0], step):
            part = targets[start : start + step]
            counts = part.sum(-1) > 0 if soft else part != ignore_index
            sound &= self._add_rows(widened(rows[start : start + step][counts]), part[counts])
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
