"""λ_max of a GPT with 100 million parameters from five products, on a CPU.

    python -m tests.benchmarks.large

Random weights, 2 sequences of 128 tokens, float32. Prints parameters, the value with its
residual, products, seconds and the peak of resident memory.
"""

import resource
import time

import torch

from homotopy_cli.curvature.api import probe
from homotopy_cli.problems.problem import Problem
from homotopy_cli.zoo.gpt import GPT


def main() -> None:
    """Build, probe, print."""
    torch.manual_seed(0)
    model = GPT(20_000, layers=12, heads=12, width=768, context=128)
    tokens = torch.randint(20_000, (2, 129))
    problem = Problem.from_module(model, "cross_entropy", [(tokens[:, :-1], tokens[:, 1:])])
    started = time.perf_counter()
    found = probe(
        problem,
        top_k=1,
        ends="max",
        max_hvp=5,
        explicit_residual=False,
        blocks=False,
        trace=False,
        frobenius=False,
        checks=False,
    )
    seconds = time.perf_counter() - started
    top = found.lambda_max
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{found.n_params:,} parameters, loss {found.loss:.3f}")
    print(f"lambda_max {top.value:.4g}, residual {top.residual:.2g}, converged: {top.converged}")
    print(f"{found.cost.n_hvp:.0f} products, {seconds:.1f} s, peak {gib:.1f} GiB resident")


if __name__ == "__main__":
    main()
