"""The one estimator: a Problem becomes a torch-free CurvatureEstimate."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, overload

from torch import Tensor, nn

from homotopy_cli.curvature.agreement import blocks_asked
from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.curvature_ratio import METHODS, curvature_ratio
from homotopy_cli.curvature.forecast import Forecast, forecast
from homotopy_cli.curvature.run import Progress, Run
from homotopy_cli.curvature.sharded import refuse_on_shards
from homotopy_cli.curvature.warm import WarmStarts
from homotopy_cli.linalg.vectors import spread_out
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem
from homotopy_cli.records import BlockEstimate, CurvatureEstimate


class CurvatureEstimator:
    """Measures curvature; keeps start vectors between calls and nothing of the model.

    Args:
        model: Only for the one-number form `estimate(inputs, targets)`.
        loss_fn: loss_fn(model(inputs), targets) -> scalar, for the same form.
        method: Of that form alone: "power" and "lanczos" give κ = ‖H‖₂/‖g‖², "hutchinson" gives
            ‖H‖_F/‖g‖² from random products, which is larger: ‖H‖₂ <= ‖H‖_F <= √n·‖H‖₂.
        config: Effort; `EstimatorConfig.thorough()` when None.

    Attributes:
        curvature_history: κ of every call of the one-number form.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        method: Literal["lanczos", "power", "hutchinson"] = "lanczos",
        *,
        config: EstimatorConfig | None = None,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {method!r}")
        self.model, self.loss_fn, self.method = model, loss_fn, method
        self.config = config if config is not None else EstimatorConfig.thorough()
        self.curvature_history: list[float] = []
        self._warm = WarmStarts()
        self._n_estimates = 0

    @overload
    def estimate(
        self,
        problem: Problem,
        partition: Partition | None = None,
        *,
        preconditioner: Tensor | None = None,
        whole: bool | None = None,
        progress: Progress | None = None,
        stop: Callable[[], bool] | None = None,
        on_gradient: Callable[[Tensor], None] | None = None,
    ) -> CurvatureEstimate: ...

    @overload
    def estimate(self, inputs: Any, targets: Any = None, /) -> float: ...

    def estimate(
        self,
        problem: Any,
        partition: Any = None,
        *,
        preconditioner: Tensor | None = None,
        whole: bool | None = None,
        progress: Progress | None = None,
        stop: Callable[[], bool] | None = None,
        on_gradient: Callable[[Tensor], None] | None = None,
    ) -> Any:
        """Measure a Problem; or, called as estimate(inputs, targets), return κ as a float.

        The second form measures one batch with the constructor's model, loss and `method`, and
        takes nothing but the two.

        Args:
            problem: A Problem (or the inputs of one batch).
            partition: Blocks of the per-layer table, None for no table (or the targets).
            preconditioner: Diagonal P > 0 of the optimizer, shape (n,), for λ_max(P⁻¹H).
            whole: False skips the pair of H itself this time; None as configured.
            progress: Called with (phase, done, most that may come); its `layer(record)`, where
                it has one, with each row of the per-layer table.
            stop: Asked between products; True returns what is there, marked as such.
            on_gradient: Called with g, shape (n,).

        Returns:
            CurvatureEstimate; slow convergence is said in it, never raised. From
            (inputs, targets) a float, 1/loss: ‖H‖/‖g‖² by `method`, inf where g = 0.

        Raises:
            NonFiniteError: Loss, gradient or a product holds NaN or infinity.
            ProblemError: The problem cannot be measured so.
            TypeError: A partition that is none, or a keyword that only a Problem takes.
        """
        if not isinstance(problem, Problem):
            _refuse_keywords(
                preconditioner=preconditioner,
                whole=whole,
                progress=progress,
                stop=stop,
                on_gradient=on_gradient,
            )
            value = curvature_ratio(
                self.model, self.loss_fn, problem, partition, self.method, self.config.seed
            )
            self.curvature_history.append(value)
            return value
        if partition is not None and not isinstance(partition, Partition):
            raise TypeError(f"partition must be a Partition or None, got {partition!r}")
        if problem.shards is not None:
            refuse_on_shards(partition, preconditioner, self.config)
        with problem.measuring(), spread_out(problem.shards):
            whole = self.config.whole if whole is None else whole
            asked = {"blocks": blocks_asked(partition), "quantities": whole}
            run = self._run(problem, preconditioner, progress, stop, asked)
            if on_gradient is not None:
                on_gradient(run.graph.grad)
            return run.estimate(partition, whole)

    def estimate_layers(
        self,
        problem: Problem,
        partition: Partition,
        *,
        preconditioner: Tensor | None = None,
    ) -> tuple[BlockEstimate, ...]:
        """Measure the blocks only, on one graph, with the configured steps for each.

        Args:
            problem: What to measure.
            partition: The blocks.
            preconditioner: Diagonal P, shape (n,): measure the blocks of P^-1/2 H P^-1/2.

        Returns:
            One row for each block, without traces: those need products with the whole of H.
        """
        with problem.measuring(), spread_out(problem.shards):
            asked = {"blocks": blocks_asked(partition), "quantities": "blocks only"}
            run = self._run(problem, preconditioner, asked=asked)
            return run.layers(partition, None, run.inv_sqrt)

    def forecast(self, problem: Problem, partition: Partition | None = None) -> Forecast:
        """Predict products, seconds and memory; costs two gradients."""
        return forecast(problem, partition, self.config)

    def state_dict(self) -> dict[str, Any]:
        """Return what makes the next estimate the same after a resume; tensors and numbers."""
        return {"n_estimates": self._n_estimates, "warm": self._warm.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._n_estimates = int(state["n_estimates"])
        self._warm.load_state_dict(state["warm"])

    def _run(
        self,
        problem: Problem,
        preconditioner: Tensor | None,
        progress: Progress | None = None,
        stop: Callable[[], bool] | None = None,
        asked: Mapping[str, Any] | None = None,
    ) -> Run:
        self._n_estimates += 1
        config = self.config
        if problem.shards is not None:  # unit vectors of one entry are not worth their passes
            config = replace(config, refine_small=False)
        return Run(
            config,
            problem,
            preconditioner,
            seed=(self.config.seed * 1_000_003 + self._n_estimates * 10_007) % 2**62,
            warm=self._warm if self.config.steps is not None else None,
            report=progress,
            stop=stop,
            asked=asked,
        )


def _refuse_keywords(**given: Any) -> None:
    """Raise TypeError for what estimate(inputs, targets) would have to ignore."""
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise TypeError(
            f"estimate(inputs, targets) takes no {' or '.join(names)}: "
            "make a Problem of the batch, Problem.from_module(model, loss, [batch])"
        )
