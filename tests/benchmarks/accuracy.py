"""Accuracy against cost: products spent, and how wrong the answer then is.

    python -m tests.benchmarks.accuracy --out accuracy.csv

One small network whose full Hessian is known: Hutchinson and Hutch++ for the trace, power
iteration and Lanczos for λ_max, several seeds each. The file has one row for each quantity,
method and number of products: the median and the worst relative error over the seeds, and the
median of the error that the method itself stated.
"""

import argparse
import csv
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from homotopy_cli.curvature.exact import full_hessian
from homotopy_cli.linalg.extreme import extreme_eigenvalues
from homotopy_cli.linalg.hutchinson import MeanEstimate, sketched, trace
from homotopy_cli.linalg.operator import DenseOperator, LinearOperator
from homotopy_cli.linalg.power_iteration import power_iteration
from homotopy_cli.linalg.vectors import generator
from homotopy_cli.problems.problem import Problem

PRODUCTS = (6, 9, 12, 18, 24, 36, 48, 72, 96, 144, 192)
HEADER = ("quantity", "method", "n_products", "median_error", "worst_error", "median_stated_error")


@dataclass(frozen=True)
class Row:
    """One point of a curve; errors relative to the exact value."""

    quantity: str
    method: str
    n_products: int
    median_error: float
    worst_error: float
    median_stated_error: float  # 2 standard errors, or the residual


def small_problem(seed: int = 0, steps: int = 60) -> Problem:
    """A tanh network of 635 parameters, float64, part way through its training."""
    draw = generator(seed)
    net = nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 3))
    net = net.double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.4 * torch.randn(p.shape, generator=draw, dtype=torch.float64))
    centres = torch.randn(3, 16, generator=draw, dtype=torch.float64)
    y = torch.randint(3, (128,), generator=draw)
    x = centres[y] + torch.randn(128, 16, generator=draw, dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return Problem.from_module(net, "cross_entropy", [(x, y)])


def trace_hutch_plus_plus(
    operator: LinearOperator, *, generator: torch.Generator, n_matvecs: int
) -> MeanEstimate:
    """Estimate tr A by Hutch++: exact on a sketched range, random signs for the rest.

    Error O(1/n_matvecs) instead of O(1/√n_matvecs) for positive semidefinite A. The standard
    error comes from the signs.

    Args:
        operator: A, shape (n, n), symmetric.
        generator: Draws the sketch and the signs.
        n_matvecs: At least 6; two thirds for the sketch and its range, the rest for signs.

    Source: Meyer, Musco, Musco & Woodruff, Hutch++ (2021), Algorithm 1.
    """
    if n_matvecs < 6:
        raise ValueError(f"Hutch++ needs at least 6 products, got {n_matvecs}")
    rank = min(n_matvecs // 3, operator.n)
    known = sketched(operator, generator=generator, n_matvecs=2 * rank)
    rest = trace(operator, generator=generator, n_probes=max(2, n_matvecs - 2 * rank), known=known)
    return MeanEstimate(rest.value, rest.stderr, 2 * rank + rest.n_probes)


def curves(
    matrix: torch.Tensor, *, products: Sequence[int] = PRODUCTS, n_seeds: int = 20
) -> list[Row]:
    """Return every method's curve on a symmetric matrix, shape (n, n).

    Args:
        matrix: The full Hessian.
        products: Numbers of products, at least 6 each.
        n_seeds: Random starts of each point.
    """
    operator = DenseOperator(matrix)
    top = torch.linalg.eigvalsh(matrix)[-1].item()
    total = matrix.trace().item()

    def hutchinson(m: int, seed: int) -> tuple[float, float]:
        found = trace(operator, generator=generator(seed), n_probes=m)
        return found.value, 2.0 * found.stderr

    def hutch_plus_plus(m: int, seed: int) -> tuple[float, float]:
        found = trace_hutch_plus_plus(operator, generator=generator(seed), n_matvecs=m)
        return found.value, 2.0 * found.stderr

    def power(m: int, seed: int) -> tuple[float, float]:
        pair = power_iteration(
            operator, generator=generator(seed), max_matvecs=m, rtol=1e-15
        ).pairs[0]
        return pair.value, pair.residual

    def lanczos(m: int, seed: int) -> tuple[float, float]:
        pair = extreme_eigenvalues(
            operator,
            generator=generator(seed),
            which="max",
            max_matvecs=m,
            rtol=1e-15,
            explicit_residual=False,
        ).largest
        return pair.value, pair.residual

    methods: list[tuple[str, str, float, Callable[[int, int], tuple[float, float]]]] = [
        ("trace", "hutchinson", total, hutchinson),
        ("trace", "hutch++", total, hutch_plus_plus),
        ("lambda_max", "power_iteration", top, power),
        ("lambda_max", "lanczos", top, lanczos),
    ]
    rows = []
    for quantity, method, exact, estimate in methods:
        for m in products:
            found = [estimate(m, seed) for seed in range(n_seeds)]
            errors = [abs(value - exact) / abs(exact) for value, _ in found]
            stated = statistics.median(bound / abs(exact) for _, bound in found)
            rows.append(Row(quantity, method, m, statistics.median(errors), max(errors), stated))
    return rows


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as CSV with a header line."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for r in rows:
            errors = (r.median_error, r.worst_error, r.median_stated_error)
            writer.writerow((r.quantity, r.method, r.n_products, *(f"{e:.3e}" for e in errors)))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.accuracy")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.csv")
    parser.add_argument("--seeds", type=int, default=20, help="random starts of each point")
    options = parser.parse_args(argv)
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {options.seeds}")
    if not options.out.parent.is_dir():
        parser.error(f"--out {options.out}: no folder {options.out.parent}")
    hessian = full_hessian(small_problem())
    write(curves(0.5 * (hessian + hessian.T), n_seeds=options.seeds), options.out)
    print(f"{options.out}: {hessian.shape[0]} parameters, {options.seeds} seeds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
