"""The log's layout: ONE table that the writer, the reader and the documentation share.

Shapes are written in symbols: n steps, m probes, v evaluations, L layers, p spectra, K numbers
in all spectra together, e events, a attempts. Units follow the package's names; `lr` stands for
the optimizer's own unit of learning rate (SGD: parameter²/loss; Adam: parameter).
"""

from dataclasses import dataclass

from homotopy_cli.records import LR_REASONS

FORMAT = "homotopy-run"
SCHEMA_VERSION = "1.0"

# Codes of /spectra/kind.
SPECTRUM_KINDS = ("eigenvalues", "density")
STATUSES = ("running", "finished", "diverged", "interrupted")
LEVELS = ("info", "warning", "error")


@dataclass(frozen=True)
class Column:
    """One dataset of the log.

    `dtype` is the file's: f8 and f4 use NaN for "not measured"; i1 codes use -1 for "not
    recorded"; str is UTF-8 of variable length. In memory every numeric value column is f8
    (layers: f4) with NaN for both.
    """

    path: str
    dtype: str
    shape: tuple[str, ...]
    unit: str
    description: str
    always: bool = False  # written even if never measured: these are what a reader may expect

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def _columns(shape: str, dtype: str, rows: str, always: str = "") -> tuple[Column, ...]:
    symbols = tuple(shape.split(",")) if shape else ()
    table = [tuple(field.strip() for field in row.split("|")) for row in rows.strip().splitlines()]
    return tuple(
        Column(path, dtype, symbols, unit, text, path in always.split())
        for path, unit, text in table
    )


STEP_VALUES = (
    *_columns(
        "n",
        "f8",
        """
        loss | loss | Mini-batch loss used for this step
        lr | lr | Learning rate used for this step (the largest group's)
        schedule_lr | lr | What the schedule asked for (the largest group's), before any ceiling
        ceiling_lr | lr | Largest rate that measured curvature allowed
        grad_norm | loss/parameter | Norm of the gradient, before clipping
        update_norm | parameter | Norm of the parameter change made by this step
        update_rms | 1 | Largest sqrt(mean(g²/v̂)) of a tensor, v̂ Adam's second moment
        second_moment_ratio | 1 | Largest mean g² / mean v̂ of a tensor; large = v̂ lags behind
        logit_max | 1 | Largest absolute score of the training forward pass
        noise_scale | example | tr Σ/‖G‖² of the gradient, running; from accumulated parts
        clip_coef | 1 | Factor that clipping applied to the gradient; 1 = none
        wall_time | s | Seconds since the run began, all attempts together
        step_seconds | s | Duration of this step, probe included
        probe_seconds_step | s | Part of step_seconds that curvature probes took
        """,
        always="loss lr grad_norm update_norm wall_time",
    ),
    *_columns(
        "n",
        "i1",
        "lr_reason | code | Why lr is what it is: "
        + ", ".join(f"{code} {name}" for code, name in enumerate(LR_REASONS))
        + "; -1 = not recorded",
    ),
)

PROBE_VALUES = (
    *_columns(
        "m",
        "f8",
        """
        kappa | 1/loss | Curvature ratio: hessian_norm / probe_grad_norm²
        lambda_max | loss/parameter² | Largest Hessian eigenvalue, signed (sharpness)
        lambda_min | loss/parameter² | Smallest Hessian eigenvalue, signed
        hessian_norm | loss/parameter² | Spectral norm of the Hessian
        preconditioned_sharpness | 1/lr | Largest eigenvalue of P⁻¹H, P the preconditioner
        directional_sharpness | 1/lr | u'Hu / u'Pu along the update direction u = P⁻¹g
        trust_ratio | 1 | Decrease of the loss in the step before, over what its gradient promised
        signal_fraction | 1 | Share of the gradient that is signal, not batch noise
        edge_ratio | 1 | lr × curvature / edge_threshold, clipping counted in; 1 = edge of stability
        edge_threshold | 1 | Stability threshold c that lr × curvature is held against
        ceiling | lr | Ceiling on lr after this probe
        residual | loss/parameter² | Residual ‖Hv - λv‖ of lambda_max; an eigenvalue lies within it
        preconditioned_residual | 1/lr | The same of preconditioned_sharpness
        n_hvp | product | Hessian-vector products this probe spent
        gradient_equivalents | gradient | Its cost, in forward + backward passes
        probe_seconds | s | Its duration
        probe_loss | loss | Loss over the probe's batches
        probe_grad_norm | loss/parameter | Gradient norm over the probe's batches
        trace | loss/parameter² | Hutchinson estimate of the Hessian's trace
        trace_stderr | loss/parameter² | Its standard error
        attention_max_logit | 1 | Largest attention logit, over all layers
        attention_entropy | nat | Smallest mean attention entropy of a layer
        norm_sigma_min | activation | Smallest standard deviation that a norm layer divided by
        norm_eps_over_var | 1 | Largest ratio of a norm layer's epsilon to its variance
        p_min | 1 | Smallest probability given to a target
        p_q001 | 1 | 0.1 % quantile of the probabilities given to targets
        log_z_mean | 1 | Mean log-partition of the softmax over targets
        """,
        always="kappa lambda_max hessian_norm preconditioned_sharpness edge_ratio ceiling "
        "residual n_hvp probe_seconds",
    ),
    *_columns(
        "m",
        "i1",
        "converged | code | 1 = every eigenvalue of the probe met its tolerance, 0 = not, "
        "-1 = not recorded",
        always="converged",
    ),
)

LAYER_VALUES = _columns(
    "m,L",
    "f4",
    """
    layer_kappa | 1/loss | ‖H_bb‖ / ‖g_b‖² of each layer's diagonal block
    layer_lambda_max | loss/parameter² | Largest eigenvalue of the block H_bb
    layer_trace | loss/parameter² | Trace of the block H_bb
    layer_grad_norm | loss/parameter | Norm of the layer's part of the gradient
    layer_lr | lr | Learning rate of the layer's parameters
    layer_attention_max_logit | 1 | Largest attention logit; in the module's first layer (queries)
    layer_attention_entropy | nat | Mean attention entropy; in the module's first layer (queries)
    layer_norm_sigma_min | activation | Smallest standard deviation that the layer divided by
    layer_norm_eps_over_var | 1 | Epsilon over the smallest variance of the layer
    """,
)

EVAL_VALUES = _columns(
    "v",
    "f8",
    """
    eval_loss | loss | Mean loss on held-out data
    eval_metric | 1 | The task's metric on held-out data (accuracy, perplexity, ...)
    """,
    always="eval_loss",
)

STEP_AXIS = (
    *_columns("n", "i8", "step | step | Optimizer step, 0-based"),
    *_columns("n", "i2", "attempt | attempt | Which attempt (resume) wrote the row, 0-based"),
)
PROBE_AXIS = (
    *_columns("m", "i8", "probe_step | step | Step before which the probe was taken"),
    *_columns("m", "i2", "probe_attempt | attempt | Which attempt wrote the probe"),
)
EVAL_AXIS = (
    *_columns("v", "i8", "eval_step | step | Steps made before the evaluation"),
    *_columns("v", "i2", "eval_attempt | attempt | Which attempt wrote the evaluation"),
)
LAYER_AXIS = (
    *_columns("L", "str", "layer | name | Names of the blocks of the partition"),
    *_columns("L", "i8", "layer_numel | parameter | Parameters in each layer; -1 = unknown"),
    *_columns("L", "str", "layer_kind | class | Class of the module that owns the layer"),
)

SPECTRA = (
    *_columns(
        "K",
        "f4",
        """
        spectra/values | loss/parameter² | Eigenvalues or density nodes, all spectra joined
        spectra/weight | 1 | Weight of each value; sums to 1 in a density
        """,
    ),
    *_columns("p+1", "i8", "spectra/offset | index | Spectrum i is values[offset[i]:offset[i+1]]"),
    *_columns("p", "i8", "spectra/spectrum_step | step | Step of the spectrum's probe"),
    *_columns("p", "i2", "spectra/spectrum_attempt | attempt | Which attempt wrote it"),
    *_columns("p", "i4", "spectra/spectrum_layer | index | Index into /layer; -1 = whole model"),
    *_columns("p", "u1", "spectra/kind | code | 0 = eigenvalues, 1 = density"),
)

EVENTS = (
    *_columns("e", "i8", "events/event_step | step | Step of the event"),
    *_columns("e", "i2", "events/event_attempt | attempt | Which attempt wrote it"),
    *_columns(
        "e",
        "str",
        """
        events/level | level | info, warning or error
        events/code | code | Stable upper-case code
        events/message | text | What happened, in words
        """,
    ),
)

PROVENANCE = (
    *_columns(
        "",
        "str",
        """
        provenance/recipe_source | text | The recipe, exact text
        provenance/recipe_resolved | JSON | The recipe with every default filled in
        provenance/environment | JSON | Versions, machine and threads
        provenance/argv | JSON | Command line, secrets redacted
        """,
    ),
    *_columns(
        "",
        "i8",
        """
        provenance/seed | 1 | Seed of the run; -1 = unknown
        provenance/n_params | parameter | Trainable parameters; -1 = unknown
        """,
    ),
    *_columns("a", "i8", "provenance/attempt_start | step | First step that each attempt made"),
)

COLUMNS: tuple[Column, ...] = (
    *STEP_AXIS,
    *STEP_VALUES,
    *PROBE_AXIS,
    *PROBE_VALUES,
    *LAYER_AXIS,
    *LAYER_VALUES,
    *EVAL_AXIS,
    *EVAL_VALUES,
    *SPECTRA,
    *EVENTS,
    *PROVENANCE,
)
BY_PATH = {column.path: column for column in COLUMNS}

# What any run's log should hold: their absence is worth a visible note.
EXPECTED = ("loss", "lr", "grad_norm", "wall_time", "kappa")

ATTRIBUTES = (
    ("format", f'"{FORMAT}"'),
    ("schema_version", f'"{SCHEMA_VERSION}"; the same major version always reads'),
    ("run_id", "name of the run"),
    ("writer", "program and version"),
    ("created_utc", "when the run began, ISO 8601"),
    ("rows_committed", "rows of /step in this file"),
    ("closed", "1 after a complete close, else 0: a journal may hold newer rows"),
    ("attempts", "1 + number of resumes"),
    ("status", ", ".join(STATUSES)),
    ("checksum", "8 bytes of mark, then the CRC32 of this file with those last 4 bytes zeroed"),
    ("journal_seq", "number of the last journal record that this file contains"),
)


def names(columns: tuple[Column, ...]) -> tuple[str, ...]:
    """The columns' names, in order."""
    return tuple(column.name for column in columns)
