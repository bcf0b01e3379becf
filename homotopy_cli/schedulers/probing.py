"""One probe while training: a slice of the batch -> Problem -> estimate -> plain numbers."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from homotopy_cli.curvature import along
from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.curvature.hvp import GradientGraph
from homotopy_cli.curvature.moments import sampled_moments
from homotopy_cli.curvature.operators import HessianOperator
from homotopy_cli.problems.nest import Batch, n_rows
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.reducer import each
from homotopy_cli.problems.wrappers import unwrap
from homotopy_cli.records import CurvatureEstimate
from homotopy_cli.schedulers.cadence import probe_cost
from homotopy_cli.schedulers.columns import columns
from homotopy_cli.schedulers.effort import Effort
from homotopy_cli.schedulers.fraction import Alignment, Excess
from homotopy_cli.schedulers.sliced import LossLike, SlicedProblems

Metric = Callable[[list[Tensor]], Tensor | None]  # live parameters -> diagonal P, or None for I


@dataclass(frozen=True)
class Measurement:
    """What one probe found; everything but `seconds` is a function of weights, batch and seed."""

    estimate: CurvatureEstimate
    values: dict[str, float]  # per-probe columns of the log; absent = not measured
    cost: float  # G
    seconds: float
    excess: float = 1.0  # ‖.grad‖ over the slice's ‖g‖; 1 where it is not asked for


@dataclass(frozen=True)
class LayerMeasurement:
    """One per-layer probe; arrays are in the order of `Partition.by_module`."""

    columns: dict[str, np.ndarray]  # layer_* columns of the log, (n_layers,); NaN = not measured
    lambda_max: dict[str, float]  # layer -> λ_max of its block, where eigenvalues were measured
    cost: float  # G
    seconds: float


class CurvatureProbe(SlicedProblems):
    """Measures a model on slices of training batches and leaves no trace on it.

    Args:
        model, loss_fn: See SlicedProblems.
        seed: Of start vectors and dropout masks.
        signal: "directional" measures u'Hu/u'Pu too, one product more; "secant" and "forward"
            measure only that, without products: see along.py.
        fraction: Tell the slice's gradient from the batch's, whose share of signal is then in
            the values: see fraction.py.
        estimator: Whose warm vectors to use and whose settings to keep, apart from the number
            of steps.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossLike,
        *,
        seed: int = 0,
        signal: str = "auto",
        fraction: bool = False,
        estimator: CurvatureEstimator | None = None,
    ) -> None:
        super().__init__(model, loss_fn, seed=seed)
        self.signal, self.fraction = signal, fraction
        config = EstimatorConfig.cheap(seed=seed, directional=signal == "directional")
        self.estimator = estimator or CurvatureEstimator(config=config)
        self.layer_names: tuple[str, ...] = ()
        self.layer_estimator = CurvatureEstimator(config=replace(config, blocks=True))
        self.scaled_layer_estimator = CurvatureEstimator(config=replace(config, blocks=True))

    def measure(
        self,
        batch: Batch,
        effort: Effort,
        *,
        paired: bool,
        metric: Metric,
        step: int,
        rate: float = 0.0,
    ) -> Measurement:
        """Estimate λ_max(P⁻¹H) where `metric` gives a P, and λ_max(H) and κ.

        H itself is left out where there is a P and `effort` has one matrix only.

        Args:
            batch: The training batch; a slice of it is used.
            effort: Slice and Lanczos steps.
            paired: The batch is (inputs, targets), for loss_fn(outputs, targets).
            metric: From live parameters, in the problem's order, to P.
            step: Varies the dropout mask.
            rate: Learning rate of the coming step, which signal secant looks along.

        Raises:
            ProblemError, NonFiniteError, RuntimeError: As the model, the loss or the estimator.
        """
        started = time.perf_counter()
        problem, share = self.problem(batch, effort.fraction, paired=paired, step=step)
        live = list(problem.model_params.values())
        diagonal = each(problem.reducer, lambda: metric(live))
        alignment = Alignment(live, diagonal) if self.fraction else None
        excess = Excess() if diagonal is None else Excess(live)

        def seen(gradient: Tensor) -> None:
            excess(gradient)
            if alignment is not None:
                alignment(gradient)

        if self.signal in along.SIGNALS:
            estimate = along.measure_along(
                problem, self.signal, rate, diagonal=diagonal, on_gradient=seen
            )
            cost = estimate.cost.gradient_equivalents * (share + self.per_pass)
        else:
            self.estimator.config = replace(
                self.estimator.config, steps=effort.steps, cold_steps=effort.steps
            )
            whole = diagonal is None or effort.matrices > 1
            estimate = self.estimator.estimate(
                problem, preconditioner=diagonal, whole=whole, on_gradient=seen
            )
            cost = probe_cost(share, estimate.cost.n_hvp, self.per_pass)
        seconds = time.perf_counter() - started
        values = columns(estimate) | {"gradient_equivalents": cost, "probe_seconds": seconds}
        if alignment is not None and math.isfinite(found := alignment.signal_fraction(share)):
            values["signal_fraction"] = found
        worst = max(problem.reducer.together(lambda: excess.value))
        return Measurement(estimate, values, cost=cost, seconds=seconds, excess=worst)

    def measure_layers(
        self, batch: Batch, effort: Effort, *, paired: bool, step: int, metric: Metric | None = None
    ) -> LayerMeasurement:
        """Estimate λ_max of every diagonal block H_bb, one block per module, few warm steps.

        Args:
            batch, effort, paired, step: See `measure`.
            metric: Measure the blocks of P^-1/2 H P^-1/2 instead, unit 1/lr.
        """
        started = time.perf_counter()
        problem, share = self.problem(batch, effort.fraction, paired=paired, step=step)
        partition = self._partition(problem)
        estimator = self.layer_estimator if metric is None else self.scaled_layer_estimator
        estimator.config = replace(estimator.config, steps=effort.steps, cold_steps=effort.steps)
        live = list(problem.model_params.values())
        diagonal = None
        if metric is not None:
            diagonal = each(problem.reducer, lambda: metric(live))
        blocks = estimator.estimate_layers(problem, partition, preconditioner=diagonal)
        found = {
            "layer_kappa": _array(b.kappa for b in blocks),
            "layer_lambda_max": _array(b.lambda_max for b in blocks),
            "layer_grad_norm": _array(b.grad_norm for b in blocks),
        }
        # A block's product walks about half of the graph, whatever its share of parameters.
        cost = probe_cost(share, 0.5 * sum(b.n_hvp for b in blocks), self.per_pass)
        sharpness = {b.name: b.lambda_max or 0.0 for b in blocks}
        return LayerMeasurement(found, sharpness, cost, time.perf_counter() - started)

    def measure_traces(
        self, batch: Batch, effort: Effort, *, paired: bool, step: int
    ) -> LayerMeasurement:
        """Estimate the trace of every diagonal block from `effort.steps` products for all of them.

        Far cheaper than eigenvalues: one product zᵀHz with random signs serves every block.
        """
        started = time.perf_counter()
        problem, share = self.problem(batch, effort.fraction, paired=paired, step=step)
        partition = self._partition(problem)
        config = EstimatorConfig(max_probes=effort.steps, refine_small=False, frobenius=False)
        with problem.measuring():
            graph = GradientGraph(problem)
            moments = sampled_moments(
                HessianOperator(graph),
                [p.numel() for p in problem.params.values()],
                config,
                generator=torch.Generator().manual_seed(problem.seed),
                known=None,
            )
        indices = [[graph.names.index(name) for name in block.params] for block in partition.blocks]
        norms = [float(graph.gather(block.params, graph.grad).norm()) for block in partition.blocks]
        found = {
            "layer_trace": _array(moments.block_trace(index).value for index in indices),
            "layer_grad_norm": _array(norms),
        }
        cost = probe_cost(share, graph.n_hvp, self.per_pass)
        return LayerMeasurement(found, {}, cost, time.perf_counter() - started)

    @property
    def n_layers(self) -> int:
        """Modules that own trainable parameters: the blocks of `Partition.by_module`."""
        named = unwrap(self.model).named_parameters()
        return len({name.rpartition(".")[0] for name, p in named if p.requires_grad})

    def _partition(self, problem: Problem) -> Partition:
        partition = Partition.by_module(problem)
        self.layer_names = tuple(block.name for block in partition.blocks)
        return partition

    def predicted(self, effort: Effort, batch: Batch) -> float:
        """G that a probe of this effort will cost."""
        return effort.predicted(n_rows(batch), self.slice_size, self.per_pass)

    def state_dict(self) -> dict[str, Any]:
        """Warm-start vectors, which save products, and the layers' names."""
        warm = {name: getattr(self, name).state_dict() for name in _ESTIMATORS}
        return warm | {name: getattr(self, name) for name in _KEPT}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for name in _KEPT:
            setattr(self, name, state.get(name, getattr(self, name)))
        for name in _ESTIMATORS:
            getattr(self, name).load_state_dict(state[name])


_KEPT = ("layer_names", "whole", "per_pass")
_ESTIMATORS = ("estimator", "layer_estimator", "scaled_layer_estimator")


def _array(values: Any) -> np.ndarray:
    with np.errstate(over="ignore"):  # κ near a minimum: inf, as float32 columns write it
        return np.array([math.nan if v is None else v for v in values], dtype=np.float32)
