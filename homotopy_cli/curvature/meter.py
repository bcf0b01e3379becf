"""Counts what an estimate spends, and times its products where asked."""

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import torch

from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.wrappers import forked_rng
from homotopy_cli.records import CostBasis

Clock = Callable[[], float]  # seconds since some moment
_FEWEST = 3  # timings of a gradient, so that one is with warm caches
_ENOUGH = 0.05  # seconds of timings: a gradient of 0.1 ms is timed 500 times
_MOST = 1000  # timings


class Meter:
    """What one graph has spent.

    Attributes:
        n_products: Hessian products, with whole vectors or with blocks, one each.
        n_whole: The same in whole products: a block's counts by its share of the parameters.
        n_gradients: Gradients outside of products: the graph's own, and finite steps.
        basis: What the cost rests on.
        clock: Times the products; None, as while training, leaves them counted only.
    """

    def __init__(self) -> None:
        self.n_products = 0
        self.n_whole = 0.0
        self.n_gradients = 1
        self.basis: CostBasis = "counted"
        self.clock: Clock | None = None
        self._times: dict[Hashable, list[float]] = {}

    def time_on(self, device: torch.device) -> None:
        """Time every product from now on, on the clock of its device."""
        self.basis, self.clock = clock_of(device)

    @contextmanager
    def product(self, kind: Hashable, share: float = 1.0) -> Iterator[None]:
        """Count, and perhaps time, the product that is taken inside.

        Args:
            kind: Products that cost alike: the same method with the same parameters.
            share: Of the parameters.
        """
        self.n_products += 1
        self.n_whole += share
        started = self.clock() if self.clock is not None else 0.0
        yield
        if self.clock is not None:
            self._times.setdefault(kind, []).append(self.clock() - started)

    def seconds(self) -> float:
        """Return the time of all products: for each kind, its count times its fastest time.

        The fastest, since setting up and other work on the machine only ever add to a time.
        """
        return sum(len(times) * min(times) for times in self._times.values())


def clock_of(device: torch.device) -> tuple[CostBasis, Clock]:
    """Return the clock of a device, and its name.

    On a CPU the time that this process computed, on all its threads: waiting for other
    processes is no cost. On a GPU wall time, after the work that was queued is done.
    """
    if device.type == "cpu":
        return "cpu_time", time.process_time

    def synchronised() -> float:
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    return "device_time", synchronised


def fastest(compute: Callable[[], object], clock: Clock, *, enough: float = _ENOUGH) -> float:
    """Return the shortest time of `compute`, of at least 3 calls and until `enough` seconds."""
    times: list[float] = []
    while len(times) < _FEWEST or (sum(times) < enough and len(times) < _MOST):
        started = clock()
        compute()
        times.append(clock() - started)
    return min(times)


def plain_gradient(problem: Problem, clock: Clock) -> float:
    """Return the time of a forward and backward pass over all batches, as a training step has it.

    Nothing is reset in between, neither generators nor buffers: of small models that would be
    most of the time. Call it where `measuring` is held and a loss was evaluated.
    """
    params, model, loss = list(problem.params.values()), problem.model, problem.loss.function

    def once() -> None:
        for batch in problem.batches:
            value = loss(model, batch)
            if value.requires_grad:
                torch.autograd.grad(value, params, allow_unused=True)

    with forked_rng(problem.device, problem.seed):
        return fastest(once, clock)
