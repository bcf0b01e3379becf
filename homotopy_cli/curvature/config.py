"""How much effort an estimate may cost: two presets and the rules behind them."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from homotopy_cli.curvature.hvp import Method
from homotopy_cli.linalg.extreme import END_FLOOR, PATIENCE, Explicit

SMALL_N = 1000  # parameters up to which a thorough estimate goes on to SMALL_RTOL and exact sums
MAX_HVP = 300  # products of a Lanczos run, unless told otherwise: our choice
FEW_HVP = 8  # too few products to spend some on a start vector: our choice
SMALL_RTOL = 1e-12  # float64; separates near-equal eigenvalues; float32 stops at rounding, 4e-6 ‖H‖


@dataclass(frozen=True)
class EstimatorConfig:
    """What to measure and how hard to try.

    The rule for tolerances: eigenvalues are resolved until residual <= rtol·max(|λ|, ‖H‖/10).
    With `refine_small`, problems of at most SMALL_N = 1000 parameters go on to SMALL_RTOL =
    1e-12 with as many products as they have parameters, and traces, ‖H‖_F and density come
    exactly from n unit products: there that costs seconds. An eigenvalue's error is about
    residual²/gap, so rtol = 1e-3 usually means six digits.

    Attributes:
        top_k: Eigenvalues wanted.
        ends: "both" for the top_k largest by magnitude and both algebraic ends; "max" for the
            top_k largest only, which spares the products that λ_min takes (λ_min is None then,
            and ‖H‖ too unless the smallest Ritz value is far from -λ_max).
        settle_norm: With ends "max": where λ_min may be the larger in magnitude, find it too, so
            that ‖H‖ and κ are always there.
        end_floor: An end much smaller than ‖H‖ is resolved to rtol·end_floor·‖H‖.
        block_end_floor: The same for blocks, whose smaller end seldom matters.
        patience: Further products through which an end much smaller than ‖H‖ must stand still.
        block_patience: The same for blocks of a problem that is not small; their smaller end
            is then stated as known to rtol·‖H_bb‖ only.
        rtol: Dimensionless; 1e-3 is our choice.
        max_hvp: Most products for each eigenproblem (the whole matrix, each block), for the
            traces and for the density, confirmations included; what did not converge by then
            says so. None: MAX_HVP for a Lanczos run, and what `refine_small` asks for.
        whole: Measure the pair λ_max, λ_min of H itself.
        blocks: Measure every block of the partition.
        trace: Traces of the blocks and of the whole.
        trace_rtol: Probing stops when two standard errors are below this share of |tr H|.
        trace_method: "hutchinson" adds the eigenpairs already found exactly and samples the rest;
            "hutch++" first spends up to 32 products on a sketch of the range.
        max_probes: Most random products for traces.
        frobenius: ‖H‖_F, from the same products as the traces.
        density: Spectral density by quadrature.
        density_probes: Start vectors of the quadrature; the iteration for the eigenvalues is
            the first where it began at random.
        density_steps: Lanczos steps for each; eigenvalues found before are left out of them.
        checks: Symmetry, finite difference and kinks: two products, six gradients. In float32 the
            gradient in float64 too, which takes about two; of small problems also a product in
            float64 for each pair and four for the sums.
        directional: u'Hu/u'Pu along u = P⁻¹g; one product, only with a preconditioner.
        curvature: "hessian"; "ggn" for the Gauss-Newton matrix in place of H;
            "preconditioned" for P^-1/2 H P^-1/2.
        explicit_residual: Confirm each reported pair by one product of its own (True), only the
            largest ("one"), or none (False). None: all of a small problem, one of a large.
        multiplicity: Look for missed copies of degenerate eigenvalues, which takes about as
            many products again. None: where the problem is small.
        refine_small: The rule for small problems above.
        small_rtol: The tolerance of small problems; never more than rtol.
        mixed: Find λ_max's vector by forward differences, one gradient each, and certify it by
            exact products; with ends "max" and top_k 1, and never across kinks.
        steps: Fixed number of Lanczos steps instead of the residual stop; None = residual.
        cold_steps: Steps of the first estimate, which has no warm start.
        hvp: Kind of product; see hvp.GradientGraph.
        keep_graph: False trades time for memory; see hvp.GradientGraph.
        seed: Of every random vector.
        max_memory: Bytes that the vectors of one Lanczos run may take; where they would take
            more, it restarts from its best Ritz vectors. 8 GiB is our choice: 20 vectors of
            10⁸ parameters.
        max_seconds: Ends early; what did not converge by then says so.
    """

    top_k: int = 5
    ends: Literal["both", "max"] = "both"
    settle_norm: bool = False
    end_floor: float = END_FLOOR
    block_end_floor: float = 1.0
    patience: int = PATIENCE
    block_patience: int = PATIENCE
    rtol: float = 1e-3
    max_hvp: int | None = None
    whole: bool = True
    blocks: bool = True
    trace: bool = True
    trace_rtol: float = 0.1
    trace_method: Literal["hutchinson", "hutch++"] = "hutchinson"
    max_probes: int = 64
    frobenius: bool = True
    density: bool = False
    density_probes: int = 2
    density_steps: int = 12
    checks: bool = True
    directional: bool = True
    curvature: Literal["hessian", "ggn", "preconditioned"] = "hessian"
    explicit_residual: Explicit | None = None
    multiplicity: bool | None = None
    refine_small: bool = True
    small_rtol: float = SMALL_RTOL
    mixed: bool = False
    steps: int | None = None
    cold_steps: int = 8
    hvp: Method = "auto"
    keep_graph: bool = True
    seed: int = 0
    max_memory: int = 8 * 2**30
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if not 0.0 < self.rtol < 1.0:
            raise ValueError(f"rtol must lie between 0 and 1, got {self.rtol}")
        if (self.max_hvp is not None and self.max_hvp < 1) or self.max_probes < 2:
            raise ValueError(
                f"need max_hvp >= 1 and max_probes >= 2, got {self.max_hvp} and {self.max_probes}"
            )
        if self.ends not in ("both", "max"):
            raise ValueError(f"ends must be both or max, got {self.ends!r}")
        if self.trace_method not in ("hutchinson", "hutch++"):
            raise ValueError(
                f"trace_method must be hutchinson or hutch++, got {self.trace_method!r}"
            )
        if self.mixed and (self.ends != "max" or self.top_k != 1):
            raise ValueError('mixed products need ends="max" and top_k=1')
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.curvature not in ("hessian", "ggn", "preconditioned"):
            raise ValueError(
                f"curvature must be hessian, ggn or preconditioned, got {self.curvature!r}"
            )

    @classmethod
    def thorough(cls, **changes: Any) -> "EstimatorConfig":
        """Everything, to its tolerance: `homotopy probe`."""
        return replace(cls(), **changes)

    @classmethod
    def cheap(cls, steps: int = 2, **changes: Any) -> "EstimatorConfig":
        """A few warm-started Lanczos steps: a probe while training.

        Costs 1 gradient for the graph and 2 for each step, times the pairs measured (H, and
        P^-1/2 H P^-1/2 when a preconditioner is given), plus 2 for the directional sharpness.
        """
        preset = cls(
            top_k=1,
            rtol=0.05,
            blocks=False,
            trace=False,
            frobenius=False,
            checks=False,
            explicit_residual=False,
            multiplicity=False,
            refine_small=False,
            steps=steps,
        )
        return replace(preset, **changes)

    def resolution(self, n: int) -> tuple[float, int]:
        """Return (rtol, most products) for a matrix of n parameters."""
        small = self.refine_small and n <= SMALL_N
        rtol = min(self.rtol, self.small_rtol) if small else self.rtol
        return rtol, self.max_hvp or (max(MAX_HVP, n) if small else MAX_HVP)

    @property
    def rounding(self) -> bool:
        """Whether float32's errors are measured in float64: with the checks of H or G."""
        return self.checks and self.steps is None and self.curvature != "preconditioned"

    @property
    def mixed_hvp(self) -> int:
        """Most products by differences: half of max_hvp; none of very few, or where not asked."""
        if not self.mixed or (self.max_hvp is not None and self.max_hvp < FEW_HVP):
            return 0
        return MAX_HVP if self.max_hvp is None else self.max_hvp // 2

    def capped(self) -> "EstimatorConfig":
        """Return the configuration whose random vectors keep to `max_hvp` too."""
        if self.max_hvp is None:
            return self
        most = self.max_hvp if self.trace_method == "hutchinson" else 3 * self.max_hvp // 4
        return replace(
            self,
            max_probes=max(2, min(self.max_probes, most)),
            density_steps=max(1, min(self.density_steps, self.max_hvp // self.density_probes)),
        )

    def for_products(self, method: str, eps: float) -> "EstimatorConfig":
        """Return the configuration for products of one kind, in a dtype of resolution eps.

        Differences of gradients carry noise of some ten eps^(2/3) of ‖H‖ (central) or eps^(1/2)
        (forward): to wait for the residuals of exact products would be to wait in vain.
        """
        power = {"central_difference": 2.0 / 3.0, "forward_difference": 0.5}.get(method)
        if power is None:
            return self
        return replace(self, small_rtol=max(self.small_rtol, 1000.0 * eps**power))

    def for_blocks(self, n: int) -> "EstimatorConfig":
        """Return the configuration for the blocks of a problem of n parameters.

        A block is no small problem of its own: each of its products walks the whole net's graph.
        """
        if self.refine_small and n <= SMALL_N:
            return replace(self, end_floor=self.block_end_floor)
        return replace(
            self,
            end_floor=self.block_end_floor,
            patience=self.block_patience,
            explicit_residual=bool(self.explicit_residual),
            multiplicity=bool(self.multiplicity),
            refine_small=False,
        )

    def confirmation(self, n: int) -> tuple[Explicit, bool]:
        """Return (explicit_residual, multiplicity) for a matrix of n parameters."""
        explicit, copies = self.explicit_residual, self.multiplicity
        small = n <= SMALL_N
        return (
            small or "one"
        ) if explicit is None else explicit, small if copies is None else copies

    def is_exact(self, n: int) -> bool:
        """Whether sums over the spectrum come from n unit products instead of random ones."""
        return self.refine_small and n <= min(SMALL_N, self.max_hvp or SMALL_N)
