"""One estimate in the making: the gradient's graph, and everything measured on it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from homotopy_cli.curvature.agreement import agree
from homotopy_cli.curvature.blocks import block_estimates
from homotopy_cli.curvature.checks import check_kinks, check_products, sentences
from homotopy_cli.curvature.config import EstimatorConfig
from homotopy_cli.curvature.cost import cost_of
from homotopy_cli.curvature.density import spectral_density
from homotopy_cli.curvature.ggn import gradient_graph
from homotopy_cli.curvature.kappa import grad_error, kappa, noise_floor
from homotopy_cli.curvature.mixed import top_vector
from homotopy_cli.curvature.moments import Moments, exact_moments, sampled_moments
from homotopy_cli.curvature.operators import (
    HessianOperator,
    PreconditionedOperator,
    inverse_square_root,
)
from homotopy_cli.curvature.rounding import measure, with_errors
from homotopy_cli.curvature.spectrum import Deadline, as_record, extremes, norm_and_lowest, stated
from homotopy_cli.curvature.warm import WarmStarts
from homotopy_cli.errors import NonFiniteError, ProblemError
from homotopy_cli.linalg.extreme import ExtremeResult, Which
from homotopy_cli.linalg.operator import LinearOperator
from homotopy_cli.linalg.vectors import dot, norm
from homotopy_cli.linalg.vectors import generator as seeded
from homotopy_cli.problems.naming import listed
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.reducer import LOCAL
from homotopy_cli.records import BlockEstimate, CurvatureEstimate, Eigenvalue

Progress = Callable[[str, int, int], None]  # phase, done, most that may come


class Run:
    """The state of one estimate; CurvatureEstimator makes it and throws it away.

    Args:
        config: Effort.
        problem: What to measure; `measuring()` must be held for the Run's whole life.
        preconditioner: Diagonal P > 0, shape (n,), or None.
        seed: Of this estimate's random vectors.
        warm: Start vectors between estimates, None for random starts.
        report, stop: See `CurvatureEstimator.estimate`.
        asked: What must be the same on all ranks, by name.
    """

    def __init__(
        self,
        config: EstimatorConfig,
        problem: Problem,
        preconditioner: Tensor | None,
        *,
        seed: int,
        warm: WarmStarts | None,
        report: Progress | None,
        stop: Callable[[], bool] | None = None,
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        self.started = time.perf_counter()
        self.config, self.problem, self.seed = config.capped(), problem, seed
        self.warm, self.report = warm, report
        self.notes: tuple[str, ...] = ()
        watched = agree(
            problem.reducer,
            config=config,
            seed=seed,
            warm=warm,
            asked={"preconditioner": preconditioner is not None} | dict(asked or {}),
            watched=config.max_seconds is not None or stop is not None,
        )
        together = problem.reducer if watched else LOCAL
        self.deadline = Deadline.after(config.max_seconds, stop, together)
        self.graph = gradient_graph(
            problem,
            self.config.curvature,
            method=self.config.hvp,
            keep_graph=self.config.keep_graph,
            inspect=self.config.checks or self.config.mixed,
        )
        if config.steps is None:
            self.graph.meter.time_on(self.graph.device)
        self.hessian = HessianOperator(self.graph)
        self.lengths = [p.numel() for p in problem.params.values()]
        self.param_norm = norm(problem.flat_params())
        self.inv_sqrt = None
        if preconditioner is not None:
            metric = problem.reducer.first(preconditioner.reshape(-1))
            self.inv_sqrt = inverse_square_root(metric).to(self.graph.grad)
        if self.config.curvature == "preconditioned" and self.inv_sqrt is None:
            raise ProblemError(
                "preconditioned curvature needs an optimizer's state, and none was given",
                hint="probe a checkpoint that holds one, or use --curvature hessian",
            )
        self.tell("gradient", 1, 1)

    def estimate(self, partition: Partition | None, whole: bool) -> CurvatureEstimate:
        """Measure all that the configuration asks for."""
        config, graph = self.config, self.graph
        swapped = config.curvature == "preconditioned"
        operator: LinearOperator = self.hessian
        grad = graph.grad
        if swapped:
            operator = PreconditionedOperator(self.hessian, self.inv_sqrt)
            grad = operator.inv_sqrt * grad
        checks, eps = None, torch.finfo(graph.dtype).eps
        if config.checks:
            checks = check_products(graph, self.hessian, generator=seeded(self.seed + 6))
            self.config = config = config.for_products(graph.method, eps)
        found = self.pairs(operator, "hessian", config.top_k) if whole else None
        if checks is not None and found is not None and not swapped:
            checks = check_kinks(graph, checks, found.pairs[0])
        pairs = [] if found is None else [as_record(pair) for pair in found.pairs]
        both = config.ends == "both"
        size = None
        if found is not None:
            size, low = norm_and_lowest(
                found, config, lambda: self.pairs(operator, "hessian", 1, "min").pairs[0]
            )
            pairs, both = (pairs, both) if low is None else ([*pairs, low], True)
        value, reason = kappa(size, norm(grad), floor := self.floor(size))
        sharpness = directional = moments = None
        if self.inv_sqrt is not None:
            sharpness = self.sharpness(found if swapped else None)
            directional = self.directional() if config.directional else None
        if (config.trace or config.frobenius) and not self.late("trace"):
            moments = self.moments(operator, found)
        blocks: tuple[BlockEstimate, ...] = ()
        if partition is not None and config.blocks:
            blocks = self.layers(partition, moments, self.inv_sqrt if swapped else None)
        density = None
        if config.density and not self.late("density"):
            draw, phase = seeded(self.seed + 4), self.phase("density")
            density = spectral_density(operator, config, draw, moments, found, self.deadline, phase)
        rounding = None
        if found is not None and config.rounding and not self.deadline.passed():
            rounding = measure(graph, found.pairs, moments, seed=self.seed + 8)
            pairs = pairs if rounding is None else rounding.widened(pairs)
        by_value = sorted(pairs, key=lambda e: e.value)
        estimate = CurvatureEstimate(
            n_params=graph.n,
            n_terms=self.problem.n_terms,
            loss=graph.loss,
            grad_norm=norm(graph.grad),
            lambda_max=by_value[-1] if pairs else None,
            lambda_min=by_value[0] if pairs and both else None,
            eigenvalues=tuple(pairs[: config.top_k]),
            hessian_norm=size,
            kappa=value,
            kappa_reason=reason,
            cost=cost_of(graph, config, self.started),
            frobenius_norm=moments.frobenius_norm if moments and config.frobenius else None,
            trace=moments.trace if moments and config.trace else None,
            density=density,
            blocks=blocks,
            preconditioned_sharpness=sharpness,
            directional_sharpness=directional,
            checks=checks,
            curvature=config.curvature,
            mode=self.problem.mode,
            dtype=str(graph.dtype).removeprefix("torch."),
            not_reached=self.missed(),
            grad_error=grad_error(norm(grad), eps, floor),
            copies_sought=config.top_k == 1 or config.confirmation(graph.n)[1],
            warnings=self.warnings(blocks) + (sentences(checks) if checks else ()),
        )
        return estimate if rounding is None else with_errors(estimate, rounding, graph, partition)

    def pairs(
        self, operator: LinearOperator, key: str, k: int, which: Which | None = None
    ) -> ExtremeResult:
        """Extreme pairs of H, or of P^-1/2 H P^-1/2."""
        near, before = None, self.graph.meter.n_products
        if self.config.mixed_hvp and operator is self.hessian and which is None:
            near, refusal = top_vector(
                self.graph,
                generator=seeded(self.seed + 7),
                rtol=self.config.rtol,
                max_matvecs=self.config.mixed_hvp,
            )
            self.notes += (refusal,) if refusal else ()
        found = extremes(
            operator,
            self.config,
            start=None if near is None else near.largest.vector,
            spent=self.graph.meter.n_products - before,
            generator=seeded(self.seed),
            k=k,
            which=which,
            warm=self.warm,
            key=key,
            metric=self.inv_sqrt if isinstance(operator, PreconditionedOperator) else None,
            deadline=self.deadline,
            progress=self.phase("eigenvalues" if key == "hessian" else "preconditioned"),
        )
        if self.config.steps is None:
            found = stated(found, self.config, self.graph.n, near=near is not None)
        return found if near is None else replace(found, low_seen=near.low_seen)

    def sharpness(self, known: ExtremeResult | None) -> Eigenvalue:
        """λ_max(P⁻¹H)."""
        if known is None:
            operator = PreconditionedOperator(self.hessian, self.inv_sqrt)
            # A warm start keeps both ends' vectors; a thorough estimate has no use for the other.
            which: Which | None = "max" if self.config.steps is None else None
            known = self.pairs(operator, "preconditioned", 1, which)
        return as_record(known.largest)

    def directional(self) -> float | None:
        """u'Hu / u'Pu along u = P⁻¹g, the direction of an adaptive step; None at g = 0."""
        u = self.inv_sqrt.to(self.graph.grad) ** 2 * self.graph.grad
        slope = dot(u, self.graph.grad)  # u'Pu = g'P⁻¹g = u'g > 0
        if slope <= 0.0:
            return None
        length = norm(u)
        curvature = dot(u, self.graph.hvp(u / length)) * length
        if not abs(curvature) < float("inf"):
            raise NonFiniteError("the product along the update direction holds NaN or infinity")
        return curvature / slope

    def moments(self, operator: LinearOperator, found: ExtremeResult | None) -> Moments:
        """Traces and ‖H‖_F, exact for small n."""
        if self.config.is_exact(self.graph.n):
            return exact_moments(operator, self.lengths, progress=self.phase("trace"))
        return sampled_moments(
            operator,
            self.lengths,
            self.config,
            generator=seeded(self.seed + 1),
            known=found,
            deadline=self.deadline,
            progress=self.phase("trace"),
        )

    def layers(
        self, partition: Partition, moments: Moments | None, inv_sqrt: Tensor | None
    ) -> tuple[BlockEstimate, ...]:
        """The per-layer table."""
        return block_estimates(
            self.graph,
            partition,
            self.config,
            seed=self.seed + 5,
            param_norm=self.param_norm,
            inv_sqrt=inv_sqrt,
            moments=moments if self.config.trace or self.config.steps is not None else None,
            warm=self.warm,
            deadline=self.deadline,
            progress=self.phase("blocks"),
            row=getattr(self.report, "layer", None),
        )

    def floor(self, size: float | None) -> float:
        """Rounding level of ‖g‖."""
        if size is None or self.config.curvature == "preconditioned":
            return 0.0
        return noise_floor(
            eps=torch.finfo(self.graph.dtype).eps,
            loss=self.graph.loss,
            hessian_norm=size,
            param_norm=self.param_norm,
            n_params=self.graph.n,
        )

    def warnings(self, blocks: tuple[BlockEstimate, ...]) -> tuple[str, ...]:
        """What a reader must know to trust the numbers."""
        said = list(self.notes)
        if self.graph.fallback_reason:
            said.append(
                "products are central differences of the gradient, because "
                f"{self.graph.fallback_reason}; at kinks (ReLU) they can be far off"
            )
        missed = self.missed()
        if missed:
            said.append(
                f"not reached by the loss, κ undefined there: {listed(missed, 6, quote='')}"
            )
        told = {n for kept in missed for n in (kept, *self.problem.aliases.get(kept, ()))}
        silent = [b for b in blocks if b.state == "not_reached"]
        idle = [b.name for b in silent if not told.issuperset(b.parameters)]
        if idle:
            said.append(
                "not reached by this batch (gradient and Hessian rows zero): "
                + listed(idle, 6, quote="")
            )
        return tuple(said)

    def missed(self) -> tuple[str, ...]:
        """Parameters that the loss does not depend on."""
        return tuple(n for n in self.graph.names if self.graph.state_of(n) == "not_reached")

    def late(self, what: str) -> bool:
        """Whether the time is spent; then `what` stays unmeasured, and a note says so."""
        if self.deadline.passed():
            self.notes += (f"{what} not measured: stopped early",)
            return True
        return False

    def phase(self, name: str) -> Callable[[int, int], None] | None:
        """The caller's progress callback, bound to one phase."""
        if self.report is None:
            return None
        return lambda done, total: self.tell(name, done, total)

    def tell(self, name: str, done: int, total: int) -> None:
        if self.report is not None:
            self.report(name, done, total)
