"""Records -> the strict JSON document of `homotopy probe --json` (schema 1.0).

No NaN or Infinity token ever: a quantity that is undefined is null beside its reason. Keys are
stable; new ones may appear in a minor version.
"""

import json
import math
from dataclasses import asdict
from typing import Any

from homotopy_cli.cli.writing import write_text

SCHEMA_VERSION = "1.0"
_DISTINCT = (
    "of an eigenvalue that occurs several times some copies may be missing; they are looked for "
    "up to 1,000 parameters"
)
_NOTES = {
    "ggn": "lambda_*, eigenvalues, *_norm, trace, kappa, density and layers are those of the "
    "Gauss-Newton matrix, preconditioned_sharpness with it in place of the Hessian",
    "preconditioned": "lambda_*, eigenvalues, hessian_norm, frobenius_norm, trace, density and "
    "layers are those of P^-1/2 H P^-1/2; kappa and the layers' grad_norm are with P^-1/2 g, the "
    "grad_norm of the whole is plain",
}


def number(value: float | None) -> float | None:
    """`value` as JSON can hold it."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)


def eigenvalue(record: Any) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        "value": number(record.value),
        "residual": number(record.residual),
        "converged": bool(record.converged),
    }


def moment(record: Any) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        "value": number(record.value),
        "stderr": number(record.stderr),
        "n_probes": int(record.n_probes),
    }


def layer(block: Any) -> dict[str, Any]:
    from homotopy_cli.curvature.kappa import kappa_error

    return {
        "name": block.name,
        "kind": block.kind,
        "n_params": block.n_params,
        "state": block.state,
        "grad_norm": number(block.grad_norm),
        "grad_norm_error": number(block.grad_error),
        "lambda_max": number(block.lambda_max),
        "lambda_min": number(block.lambda_min),
        "hessian_norm": number(block.hessian_norm),
        "residual": number(block.residual),
        "converged": bool(block.converged),
        "kappa": number(block.kappa),
        "kappa_error": number(kappa_error(block)),
        "kappa_reason": block.kappa_reason or None,
        "trace": moment(block.trace),
        "n_hvp": block.n_hvp,
        "parameters": list(block.parameters),
    }


def components(record: Any) -> dict[str, Any] | None:
    """Attention, norms and output softmax as measured, with naive proxies (`seed_kappa`)."""
    from homotopy_cli.records import SEED_KAPPA_WORTH

    if record is None:
        return None
    found = asdict(record)
    return {
        "attention": [strict(site) for site in found["attention"]],
        "norm": [strict(site) for site in found["norm"]],
        "cross_entropy": strict(found["cross_entropy"]),
        "seed_kappa_note": f"e^(2 max_logit), 1/sigma_min², 1/p_min: {SEED_KAPPA_WORTH}",
        "notes": list(record.notes),
    }


def checks(record: Any) -> dict[str, Any] | None:
    """Whether the products are those of a symmetric matrix that is the gradient's derivative."""
    return None if record is None else strict(asdict(record))


def noise(record: Any) -> dict[str, Any] | None:
    """Gradient noise scale and batch sharpness, each with its standard error."""
    if record is None:
        return None
    return {
        "n_batches": record.n_batches,
        "batch_size": number(record.batch_size),
        "grad_norm_squared": moment(record.grad_norm_squared),
        "trace_sigma": moment(record.trace_sigma),
        "noise_scale": moment(record.noise_scale),
        "noise_scale_reason": record.noise_scale_reason or None,
        "batch_sharpness": moment(record.batch_sharpness),
    }


def strict(value: Any) -> Any:
    """A nest of plain values without a number that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return number(value) if isinstance(value, float) else value


def validation(records: Any) -> list[dict[str, Any]]:
    return [
        {
            "quantity": v.quantity,
            "estimate": number(v.estimate),
            "exact": number(v.exact),
            "relative_error": number(v.relative_error),
            "bound": number(v.bound),
            "within_bound": v.within_bound,
            "exact_dtype": v.exact_dtype,
        }
        for v in records
    ]


def estimate_document(estimate: Any) -> dict[str, Any]:
    """The part of the document that comes from a CurvatureEstimate alone."""
    from homotopy_cli.curvature.kappa import kappa_error, norm_error

    density = estimate.density
    return {
        "schema_version": SCHEMA_VERSION,
        "curvature": estimate.curvature,
        "curvature_note": _NOTES.get(estimate.curvature),
        "mode": estimate.mode,
        "dtype": estimate.dtype,
        "hvp": {
            "method": estimate.cost.method,
            "fallback_reason": estimate.cost.fallback_reason or None,
            "n_hvp": int(estimate.cost.n_hvp),
            "n_hvp_weighted": number(estimate.cost.n_hvp_weighted),
            "gradient_equivalents": number(estimate.cost.gradient_equivalents),
            "gradient_equivalents_basis": estimate.cost.basis,
            "seconds": number(estimate.cost.seconds),
        },
        "n_params": estimate.n_params,
        "n_examples": estimate.n_terms,
        "n_terms": estimate.n_terms,  # what it is: for a language model tokens
        "loss": number(estimate.loss),
        "grad_norm": number(estimate.grad_norm),
        "grad_norm_error": number(estimate.grad_error),
        "lambda_max": eigenvalue(estimate.lambda_max),
        "lambda_min": eigenvalue(estimate.lambda_min),
        "eigenvalues": [eigenvalue(e) for e in estimate.eigenvalues],
        "eigenvalues_note": None if estimate.copies_sought else _DISTINCT,
        "hessian_norm": number(estimate.hessian_norm),
        "hessian_norm_error": number(norm_error(estimate)),
        "frobenius_norm": moment(estimate.frobenius_norm),
        "trace": moment(estimate.trace),
        "kappa": number(estimate.kappa),
        "kappa_error": number(kappa_error(estimate)),
        "kappa_reason": estimate.kappa_reason or None,
        "predicted_decrease": number(estimate.predicted_decrease),
        "density": None
        if density is None
        else {
            "nodes": [number(x) for x in density.nodes],
            "weights": [number(x) for x in density.weights],
            "sigma": number(density.sigma),
            "n_probes": density.n_probes,
            "cdf_stderr": number(density.cdf_stderr),
        },
        "preconditioned_sharpness": eigenvalue(estimate.preconditioned_sharpness),
        "directional_sharpness": number(estimate.directional_sharpness),
        "converged": estimate.converged,
        "checks": checks(estimate.checks),
        "components": components(estimate.components),
        "layers": [layer(block) for block in estimate.blocks],
        "warnings": list(estimate.warnings),
    }


def write_json(document: dict[str, Any], target: str) -> None:
    """Write `document` to a file, or to stdout for `-`; sorted keys are not imposed."""
    write_text(target, json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
