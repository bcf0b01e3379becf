"""Traces of every block, of the whole, and ‖H‖_F, all from the same products."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.spectrum import Deadline
from homotopy_cli.linalg.extreme import ExtremeResult, Progress
from homotopy_cli.linalg.hutchinson import LowRank, mean_with_error, probe_samples, sketched
from homotopy_cli.linalg.operator import LinearOperator
from homotopy_cli.linalg.vectors import norm
from homotopy_cli.records import Moment

_SKETCH = 32  # products of Hutch++'s sketch and its range together: our choice
_MEMORY = 2**28  # bytes of Ritz vectors kept for the trace
_FEWEST = 4  # probes before a standard error is believed
_DIGITS = 5e-7  # half a unit of the sixth digit, the last one that is printed


@dataclass(frozen=True)
class Moments:
    """Sums over the spectrum."""

    trace: Moment
    frobenius_norm: Moment
    by_parameter: Tensor  # (n_probes or 1, n_parameters) float64: trace samples of each tensor
    eigenvalues: Tensor | None = field(default=None)  # (n,) ascending, when the sums are exact
    matrix: Tensor | None = field(default=None, repr=False)  # (n, n) float64 on the CPU, likewise

    def block_trace(self, parameters: list[int]) -> Moment:
        """Return the trace of the diagonal block of some parameter tensors.

        Block traces add up to `trace` exactly: they are parts of the same samples.
        """
        samples = self.by_parameter[:, parameters].sum(dim=1).tolist()
        if self.eigenvalues is not None:
            return Moment(samples[0], self.trace.stderr, 0)
        mean = mean_with_error(samples)
        return Moment(mean.value, mean.stderr, mean.n_probes)


def exact_moments(
    operator: LinearOperator, lengths: list[int], *, progress: Progress | None = None
) -> Moments:
    """Return the sums from n unit products, free of sampling error; for small n.

    Their standard error is ‖A - Aᵀ‖_F/√2 as multiplied, about ‖error‖_F where errors of entries
    are independent; 0 for products in float64, and in float32 where six digits do not show it.

    Args:
        operator: A, shape (n, n).
        lengths: Sizes of the parameter tensors, in order.
        progress: Called with (products done, n).
    """
    n = operator.n
    matrix = torch.empty((n, n), dtype=torch.float64)
    unit = torch.zeros(n, dtype=operator.dtype, device=operator.device)
    for i in range(n):
        unit[i] = 1.0
        matrix[i] = operator.matvec(unit).to("cpu", torch.float64)
        unit[i] = 0.0
        if progress is not None:
            progress(i + 1, n)
    skew = (matrix - matrix.T).norm().item() / math.sqrt(2.0)
    differences = bool(getattr(operator, "product_error", 0.0))
    skew = skew if differences or operator.dtype != torch.float64 else 0.0
    matrix = 0.5 * (matrix + matrix.T)
    diagonal = matrix.diagonal()
    by_parameter = torch.stack([part.sum() for part in diagonal.split(lengths)])
    trace, frobenius = diagonal.sum().item(), torch.linalg.matrix_norm(matrix).item()
    return Moments(
        trace=Moment(trace, skew if differences else shown(trace, skew), 0),
        frobenius_norm=Moment(frobenius, skew if differences else shown(frobenius, skew), 0),
        by_parameter=by_parameter[None],
        eigenvalues=torch.linalg.eigvalsh(matrix),
        matrix=matrix,
    )


def shown(value: float, error: float) -> float:
    """The error, or 0 where the six digits of the value do not show it."""
    return error if error > _DIGITS * abs(value) else 0.0


def sampled_moments(
    operator: LinearOperator,
    lengths: list[int],
    config: EstimatorConfig,
    *,
    generator: torch.Generator,
    known: ExtremeResult | None,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> Moments:
    """Estimate the sums from random sign probes, until two standard errors are small enough.

    Args:
        operator: A, shape (n, n).
        lengths: Sizes of the parameter tensors, in order.
        config: trace_rtol and max_probes.
        generator: Draws the signs; must not have drawn anything `known` depends on.
        known: What Lanczos found before: all its Ritz pairs lower the variance and cost no
            product. Hutch++ adds a sketch of the range to them.
        deadline: Ends the sampling early.
        progress: Called with (products done, most that may come).
    """
    part = _low_rank(known)
    if config.trace_method == "hutch++":
        part = sketched(
            operator,
            generator=generator,
            n_matvecs=min(_SKETCH, config.max_probes // 3),
            known=part,
        )
    samples = probe_samples(
        operator, generator=generator, lengths=torch.tensor(lengths), known=part
    )
    traces: list[Tensor] = []
    norms: list[float] = []
    while len(norms) < config.max_probes:
        sample = next(samples)
        traces.append(sample.block_traces.cpu())
        norms.append(sample.squared_norm)
        if progress is not None:
            progress(len(norms), config.max_probes)
        if len(norms) < min(_FEWEST, config.max_probes):
            continue
        so_far = mean_with_error([t.sum().item() for t in traces])
        if 2.0 * so_far.stderr <= config.trace_rtol * abs(so_far.value):
            break
        if deadline is not None and deadline.passed():
            break
    by_parameter = torch.stack(traces)
    whole = mean_with_error(by_parameter.sum(dim=1).tolist())
    square = mean_with_error(norms)
    frobenius = math.sqrt(max(square.value, 0.0))
    return Moments(
        trace=Moment(whole.value, whole.stderr, whole.n_probes),
        frobenius_norm=Moment(
            frobenius, 0.5 * square.stderr / frobenius if frobenius > 0.0 else 0.0, square.n_probes
        ),
        by_parameter=by_parameter,
    )


def _low_rank(found: ExtremeResult | None) -> LowRank | None:
    """Ritz pairs by magnitude, as many as fit into _MEMORY.

    Q'AQ is diagonal in them, converged or not, so that what is left is A off the Krylov space.
    """
    if found is None:
        return None
    if found.tridiagonal is None:
        values = torch.tensor([pair.value for pair in found.pairs], dtype=torch.float64)
        return LowRank(values, torch.stack([pair.vector for pair in found.pairs]))
    basis = found.tridiagonal.basis
    values, _, rotation = found.tridiagonal.ritz()
    bytes_each = basis.n * torch.finfo(basis.dtype).bits // 8
    rank = min(len(values), max(1, _MEMORY // bytes_each))
    index = values.abs().argsort(descending=True)[:rank]
    vectors = torch.stack([basis.combine(rotation[:, i]) for i in index.tolist()])
    for vector in vectors:  # one at a time: there may be 256 MiB of them
        vector.div_(norm(vector))
    return LowRank(values[index], vectors)
