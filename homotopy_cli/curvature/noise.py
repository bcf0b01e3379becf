"""What one batch sees: batch sharpness, and how noisy its gradient is.

Batch sharpness, the mean of g_B'H_B g_B/‖g_B‖², is what SGD holds at 2/lr (EoSS), not
λ_max(H). The simple noise scale B = tr Σ/‖G‖² is the batch size at which gradient noise and
signal are equal (McCandlish et al. 2018, Appendix A.1).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from homotopy_cli.curvature.hvp import GradientGraph, Method
from homotopy_cli.errors import ProblemError
from homotopy_cli.linalg.hutchinson import mean_with_error
from homotopy_cli.linalg.vectors import dot, norm
from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.reducer import LOCAL
from homotopy_cli.records import Moment, NoiseEstimate


@dataclass(frozen=True)
class _Sums:
    """Weighted sums over batches, from which one batch can be taken out again."""

    terms: Tensor  # (k,) float64, terms of each batch
    grams: Tensor  # (k, k) float64, g_i'g_j

    def without(self, left_out: int | None = None) -> tuple[float, float]:
        """Return unbiased (‖G‖², tr Σ) from all batches but one.

        With g_i of n_i terms, E‖g_i‖² = ‖G‖² + tr Σ/n_i, and E‖ḡ‖² = ‖G‖² + tr Σ/N for the
        mean over all N terms: two equations in two unknowns.
        """
        keep = [i for i in range(len(self.terms)) if i != left_out]
        n, grams = self.terms[keep], self.grams[keep][:, keep]
        total, k = n.sum(), len(keep)
        weights = n / total
        small, big = (grams.diagonal().sum() / k).item(), (weights @ grams @ weights).item()
        inverse = ((1.0 / n).sum() / k).item()  # of the batch size, mean
        scatter = (small - big) / (inverse - 1.0 / total.item())
        return big - scatter / total.item(), scatter


def gradient_noise(
    problem: Problem, *, sharpness: bool = True, method: Method = "auto"
) -> NoiseEstimate:
    """Measure batch sharpness and the gradient noise scale over the problem's batches.

    Costs one gradient for each batch, three with `sharpness`; memory is one gradient for each
    batch. Standard errors: batch sharpness over the batches; ‖G‖², tr Σ and their quotient by
    the jackknife. The quotient is biased by about its squared relative error. A standard error
    of k batches is itself uncertain by about 1/√(2(k-1)), and the quotient is skewed: of 6 batches
    two of them cover the true value in about four of five cases, not in 95 %; give 20 or more.

    Args:
        problem: At least 3 batches, each drawn independently; their terms are exchangeable.
            Those of all ranks count.
        sharpness: One Hessian product for each batch.
        method: Kind of product.

    Raises:
        ProblemError: Fewer than 3 batches.
    """
    require_batches(problem)
    own = len(problem.batches)
    grads: list[Tensor] = []
    found = problem.reducer.together(
        lambda: [_one(problem, i, grads, sharpness, method) for i in range(own)]
    )
    quotients = [q for of_rank in found for _, q in of_rank if q is not None]
    terms = torch.tensor([n for of_rank in found for n, _ in of_rank], dtype=torch.float64)
    grams, k = _grams(problem, grads, [len(of_rank) for of_rank in found]), len(terms)
    sums = _Sums(terms, grams)
    signal, scatter = sums.without()
    leave_one = [sums.without(i) for i in range(k)]
    scale, reason = None, ""
    if signal > 0.0 and scatter >= 0.0:
        folds = [c / s for s, c in leave_one if s > 0.0]
        stderr = _jackknife(folds) if len(folds) == k else math.inf
        scale = Moment(scatter / signal, stderr, k)
    else:
        reason = (
            f"undefined: with {k} batches ‖G‖² comes out as {signal:.2g} and tr Σ as "
            f"{scatter:.2g}; the gradient is lost in its noise, use more batches"
        )
    mean = mean_with_error(quotients) if quotients else None
    return NoiseEstimate(
        n_batches=k,
        batch_size=problem.n_terms / k,
        grad_norm_squared=Moment(signal, _jackknife([s for s, _ in leave_one]), k),
        trace_sigma=Moment(scatter, _jackknife([c for _, c in leave_one]), k),
        noise_scale=scale,
        noise_scale_reason=reason,
        batch_sharpness=None if mean is None else Moment(mean.value, mean.stderr, mean.n_probes),
    )


def _one(
    problem: Problem, index: int, grads: list[Tensor], sharpness: bool, method: Method
) -> tuple[float, float | None]:
    """(terms, g'Hg/‖g‖²) of one batch of this rank; its mean gradient goes into `grads`."""
    graph = GradientGraph(_Single(problem, index), method=method, keep_graph=sharpness)
    n_terms = float(problem.counts[index])
    grads.append(graph.grad / n_terms if problem.loss.sums else graph.grad)
    quotient = None
    with problem.measuring():
        length = norm(graph.grad)
        if sharpness and length > 0.0:
            direction = graph.grad / length
            quotient = dot(direction, graph.hvp(direction))
    return n_terms, quotient


def _grams(problem: Problem, grads: list[Tensor], counts: list[int]) -> Tensor:
    """g_i'g_j between all batches of all ranks, (k, k); one all-reduce for each foreign batch."""
    reducer, columns = problem.reducer, []
    like = problem.flat_params()
    for rank, count in enumerate(counts):
        for i in range(count):
            mine = rank == reducer.rank
            g = reducer.sum(
                lambda i=i, mine=mine: grads[i].clone() if mine else torch.zeros_like(like), like
            )
            columns.append([dot(g, h) for h in grads])
    rows = reducer.together(lambda: columns)
    return torch.tensor(
        [[x for of_rank in rows for x in of_rank[j]] for j in range(sum(counts))],
        dtype=torch.float64,
    )


def require_batches(problem: Problem) -> None:
    """Refuse a problem whose gradient noise cannot be told: fewer than 3 batches on all ranks."""
    n_batches = sum(problem.reducer.together(lambda: len(problem.batches)))
    if n_batches < 3:
        raise ProblemError(
            f"gradient noise needs at least 3 batches, got {n_batches}",
            hint="give --batch three times or more, or split one with --microbatch",
        )


def _jackknife(values: list[float]) -> float:
    """Standard error of a statistic from its values with one batch left out."""
    k = len(values)
    mean = math.fsum(values) / k
    return math.sqrt((k - 1) / k * math.fsum((v - mean) ** 2 for v in values))


class _Single:
    """One batch of a problem, seen as a problem of its own; everything else is the whole's."""

    def __init__(self, whole: Problem, index: int) -> None:
        self._whole, self._index = whole, index
        self.batches, self.weights = (whole.batches[index],), (1.0,)
        self.reducer = LOCAL

    def batch_loss(self, index: int) -> Tensor:
        return self._whole.batch_loss(self._index)

    def __getattr__(self, name: str) -> object:
        return getattr(self._whole, name)
