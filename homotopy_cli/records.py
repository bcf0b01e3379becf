"""The waist of the package: what an estimate *is*, as plain numbers, without torch.

Everything left of this file (problems, curvature) produces these records; everything right
of it (terminal, schedulers, log, report) consumes them. Units: λ, ‖H‖, trace have
loss/parameter²; gradient norms loss/parameter; κ 1/loss; for preconditioned curvature λ has
the unit 1/lr. A quantity that was not computed is None; one that is undefined is None with a
reason in words. Nothing here is ever NaN.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

# Why the learning rate of a step is what it is; the log and the schedulers keep the index.
LR_REASONS = ("schedule", "ceiling", "release", "floor", "held", "per_group", "rise", "scaled")

BlockState = Literal["reached", "constant_gradient", "not_reached", "frozen", "not_measured"]


@dataclass(frozen=True)
class Eigenvalue:
    """One signed eigenvalue estimate: some true eigenvalue lies within `residual` of `value`."""

    value: float  # loss/parameter²
    residual: float  # ‖Av - λv‖₂ at ‖v‖ = 1, and the error of products by differences; same unit
    converged: bool  # ‖Av - λv‖₂ <= rtol * scale of the operator


@dataclass(frozen=True)
class Moment:
    """A randomised estimate (trace, Frobenius norm) with its standard error.

    Of m probes: ± 2 stderr covers the truth about as often as Student's t with m - 1 degrees of
    freedom says, 84 % of the time at m = 4 (measured), 92 % at 10, 95 % from 60 on.
    """

    value: float
    stderr: float  # 0 when exact; of n products by differences or in float32, their error
    n_probes: int  # random vectors spent; 0 when exact


# What gradient_equivalents rests on: CPU time, or time on a GPU, of the products over that of a
# gradient; or 2 for each product.
CostBasis = Literal["cpu_time", "device_time", "counted"]
EventLevel = Literal["info", "warning", "error"]


@dataclass(frozen=True)
class HvpCost:
    """What the estimate cost, and by which kind of product."""

    # double_backward, forward_over_reverse, central_difference or forward_difference; of a signal
    # without products its name: secant, forward or trust_ratio
    method: str
    fallback_reason: str  # "" when the method asked for was used
    n_hvp: int  # Hessian-vector products, each block's or float64's counted as one
    gradient_equivalents: float  # the same work in gradients (forward + backward); see basis
    seconds: float  # wall time of the whole estimate
    n_hvp_weighted: float = 0.0  # the products; a block's counts by its share of the parameters
    basis: CostBasis = "counted"


@dataclass(frozen=True)
class Checks:
    """Whether the products are those of a symmetric matrix that is the gradient's derivative."""

    symmetry_error: float  # |u'Hv - v'Hu| √n / (‖Hu‖ + ‖Hv‖) at random unit u, v; dimensionless
    symmetry_bound: float  # what rounding may do to it
    difference_error: float | None = None  # ‖Hv - difference of gradients‖ / ‖Hv‖; None: not asked
    difference_bound: float | None = None  # truncation and rounding, measured
    kink: bool = False  # a finite step sees another curvature than the derivative
    curvature_exact: float | None = None  # v'Hv along the top eigenvector, loss/parameter²
    curvature_finite: float | None = None  # the same by a finite step
    step: float | None = None  # length of that step, parameter units
    kinked_operations: tuple[str, ...] = ()  # of the first batch's graph: Relu, MaxPool2D...
    custom_functions: tuple[str, ...] = ()  # user-written autograd functions in it


@dataclass(frozen=True)
class SpectralDensity:
    """Stochastic Lanczos quadrature of the eigenvalue density, averaged over probes."""

    nodes: np.ndarray  # (k,) sorted Ritz values, loss/parameter²
    weights: np.ndarray  # (k,) non-negative, sum to 1
    sigma: float  # suggested Gaussian width for drawing, loss/parameter²
    n_probes: int = 1  # start vectors; 0 when every eigenvalue is known
    cdf_stderr: float | None = None  # largest standard error of the share below any λ; 0 = exact


@dataclass(frozen=True)
class BlockEstimate:
    """Curvature of one diagonal block H_bb (a "layer"). Not H seen from the layer: the block."""

    name: str  # "(root)" for parameters that the top module owns
    kind: str  # class name of the owning module, or "parameter"
    n_params: int
    state: BlockState
    grad_norm: float  # ‖g_b‖
    lambda_max: float | None = None
    lambda_min: float | None = None
    hessian_norm: float | None = None  # ‖H_bb‖₂
    residual: float | None = None  # the larger of the ends'; float32's error, measured
    converged: bool = False
    kappa: float | None = None  # ‖H_bb‖₂ / ‖g_b‖²
    kappa_reason: str = ""  # why kappa is None
    trace: Moment | None = None
    n_hvp: int = 0  # products with this block
    parameters: tuple[str, ...] = ()  # names, tied aliases included
    grad_error: float | None = None  # of ‖g_b‖, from rounding


@dataclass(frozen=True)
class AttentionComponent:
    """One attention call site: how peaked its softmax is over the probe's batches."""

    name: str  # path of the module that made the call
    max_logit: float  # largest q·k·scale (mask applied), over heads and rows; dimensionless
    entropy: float  # mean over rows of -Σ A log A, nats
    entropy_normalised: float  # entropy / log(number of keys a row may see); 1 = uniform
    n_heads: int
    head_max_logit: tuple[float, ...] = ()  # (n_heads,)
    head_entropy: tuple[float, ...] = ()  # (n_heads,), nats
    seed_kappa: float | None = (
        None  # e^(2 max_logit), a curvature proxy shown for comparison; None above 1e308
    )


@dataclass(frozen=True)
class NormComponent:
    """One normalisation layer: the smallest scale it divides by."""

    name: str
    kind: str  # LayerNorm | RMSNorm | BatchNorm1d | ... | GroupNorm
    sigma_min: float  # smallest sqrt(var) (RMSNorm: rms), without eps; activation units
    sigma_p01: float  # 1 % quantile of the same
    eps_over_var: float  # eps / smallest var; above 0.1 eps, not the data, sets the scale
    seed_kappa: float | None = None  # 1/sigma_min², likewise


@dataclass(frozen=True)
class CrossEntropyComponent:
    """The softmax that the loss sees: how sure it is of its targets."""

    p_min: float  # smallest target probability in the probe's batches
    p_q001: float  # 0.1 % quantile
    p_q01: float  # 1 % quantile
    log_z_mean: float  # mean of log Σ exp(logit), nats
    max_logit: float  # largest |logit|
    seed_kappa: float | None = None  # 1/p_min, likewise


@dataclass(frozen=True)
class Components:
    """What one forward pass over the probe's batches shows of the network's parts."""

    attention: tuple[AttentionComponent, ...] = ()
    norm: tuple[NormComponent, ...] = ()
    cross_entropy: CrossEntropyComponent | None = None
    notes: tuple[str, ...] = ()  # what could not be seen, in words


SEED_KAPPA_WORTH = (
    "symptoms to watch over time, no bounds on the loss's curvature (a softmax's Jacobian has norm "
    "at most 1/2 however large these get)"
)


# Per-step column -> (event's code, value that an alarm needs). Where loss spikes followed:
# 2.3 Wortsman et al. 2023 (arXiv:2304.13013); 10 is our choice. An alarm needs 6 sd above the
# recent mean as well: the values alone are passed at times by runs that stay healthy (measured).
ALARMS = {"update_rms": ("UPDATE_RMS", 2.3), "second_moment_ratio": ("SECOND_MOMENT_LAG", 10.0)}
SPIKE_AFTER = 8  # steps within which a loss spike followed (the same source)


@dataclass(frozen=True)
class CurvatureEstimate:
    """All that one probe measured at one point θ, over one fixed set of batches."""

    n_params: int
    n_terms: int  # loss terms averaged over: examples, or tokens not ignored
    loss: float
    grad_norm: float  # ‖g‖
    lambda_max: Eigenvalue | None
    lambda_min: Eigenvalue | None
    eigenvalues: tuple[Eigenvalue, ...]  # by magnitude, signed
    hessian_norm: float | None  # max(|λ_max|, |λ_min|)
    kappa: float | None  # ‖H‖₂/‖g‖²
    kappa_reason: str
    cost: HvpCost
    frobenius_norm: Moment | None = None
    trace: Moment | None = None
    density: SpectralDensity | None = None
    blocks: tuple[BlockEstimate, ...] = ()
    preconditioned_sharpness: Eigenvalue | None = None  # λ_max(P⁻¹H), unit 1/lr
    directional_sharpness: float | None = None  # u'Hu / u'Pu along u = P⁻¹g, unit 1/lr
    components: Components | None = None
    checks: Checks | None = None
    curvature: str = "hessian"  # which matrix: hessian | ggn | preconditioned
    mode: str = "eval"  # eval | train
    dtype: str = "float32"
    warnings: tuple[str, ...] = ()
    not_reached: tuple[str, ...] = ()  # parameters that the loss does not depend on
    grad_error: float | None = None  # of ‖g‖, rounding: measured in float64, or by a rule; or None
    copies_sought: bool = True  # of equal eigenvalues; where not, `eigenvalues` may lack some

    @property
    def predicted_decrease(self) -> float | None:
        """Loss that one step of 1/‖H‖ along -g is sure to gain on a quadratic: 1/(2κ)."""
        return None if not self.kappa else 0.5 / self.kappa

    @property
    def norm_converged(self) -> bool:
        """Both ends met their tolerance, so far as they were asked for: ‖H‖₂ and κ rest on them."""
        return all(e.converged for e in (self.lambda_max, self.lambda_min) if e is not None)

    @property
    def converged(self) -> bool:
        """Every eigenvalue that was asked for met its tolerance."""
        whole = [e for e in (self.lambda_max, self.lambda_min, *self.eigenvalues) if e is not None]
        blocks = [
            b.converged
            for b in self.blocks
            if b.hessian_norm is not None or b.state == "not_measured"
        ]
        return all(e.converged for e in whole) and all(blocks)


@dataclass(frozen=True)
class NoiseEstimate:
    """Batch sharpness and gradient noise over several batches; standard errors with each."""

    n_batches: int
    batch_size: float  # terms of a batch, mean
    grad_norm_squared: Moment  # ‖G‖², unbiased: may come out negative
    trace_sigma: Moment  # tr Σ of one term's gradient, unbiased; loss²/parameter²
    noise_scale: Moment | None  # tr Σ/‖G‖², terms: the batch size where noise equals signal
    noise_scale_reason: str = ""  # why it is None
    batch_sharpness: Moment | None = None  # mean of g_B'H_B g_B/‖g_B‖², loss/parameter²


@dataclass(frozen=True)
class LrRange:
    """The critical learning rate of one batch, by forward passes along a step direction."""

    along: str  # gradient | preconditioned_gradient
    critical: float | None  # where the loss is first seen to rise; middle of the bracket
    low: float | None  # largest rate below it that did not raise the loss
    high: float | None  # smallest that did
    curve: tuple[tuple[float, float], ...]  # (rate, loss) of every pass, ascending
    n_forwards: int


@dataclass(frozen=True)
class Validation:
    """One estimated quantity beside its exact value from the full Hessian."""

    quantity: str
    estimate: float
    exact: float
    relative_error: float
    bound: float | None  # the estimate's own stated bound, absolute
    within_bound: bool | None
    exact_dtype: str = "float64"  # of the full Hessian


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step. `values` are per-step columns of runlog/schema.py; absent = NaN."""

    step: int  # 0-based optimizer step; loss and lr are those *used* for this step
    values: Mapping[str, float]


@dataclass(frozen=True)
class ProbeRecord:
    """One curvature probe, taken before the optimizer step of the same number."""

    step: int
    values: Mapping[str, float]  # per-probe columns
    layers: Mapping[str, np.ndarray] = field(default_factory=dict)  # column -> (n_layers,)
    spectrum: tuple[np.ndarray, np.ndarray] | None = None  # eigenvalues or nodes, weights


@dataclass(frozen=True)
class EvalRecord:
    """One evaluation on held-out data, after `step` optimizer steps."""

    step: int
    values: Mapping[str, float]  # eval_loss, eval_metric


@dataclass(frozen=True)
class EventRecord:
    """Something a reader of the log must know: an LR change's reason, a spike, a failed probe."""

    step: int
    level: EventLevel
    code: str  # UPPER_CASE, stable
    message: str


@dataclass(frozen=True)
class RunInfo:
    """What is fixed for a whole run; written once, first."""

    run_id: str
    layers: tuple[str, ...]
    layer_numel: tuple[int, ...]
    layer_kind: tuple[str, ...]
    recipe_source: str  # exact text
    recipe_resolved: Mapping[str, Any]  # JSON-able
    environment: Mapping[str, str]
    argv: tuple[str, ...]
    seed: int
    n_params: int
    created_utc: str = ""
