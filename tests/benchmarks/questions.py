"""What is asked of every contender, and in what form it answers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.benchmarks.models import Case

QUESTIONS = ("lambda_max", "top 10", "trace", "density", "layers")


@dataclass(frozen=True)
class Answer:
    """What one run of one method said."""

    values: tuple[float, ...]  # in the question's order; empty for a density
    n_products: float  # Hessian products, of the whole or of a block
    stated: tuple[float, ...] = ()  # the method's own error for each value, when it has one
    certified: bool = False  # it says itself that its tolerance was reached
    nodes: np.ndarray | None = None  # of a density
    weights: np.ndarray | None = None  # adding up to 1
    note: str = ""


@dataclass(frozen=True)
class Contender:
    """One method of one library for one question."""

    name: str
    question: str
    run: Callable[[Case, int], Answer]  # (case, seed)
    runs_on: tuple[str, ...] = ("mlp", "resnet", "gpt")
