"""Logs built in memory for the report's tests: realistic, seeded, no file."""

import numpy as np

from homotopy_cli.records import EventRecord
from homotopy_cli.runlog.reader import RunLog, Spectrum

RECIPE = """# a small GPT, no warmup of its own
model: {name: gpt, layers: 5, width: 64, heads: 4, context: 64}
data: {name: text, path: corpus.txt}
optimizer: {name: adamw, lr: 3e-3, betas: [0.9, 0.95], weight_decay: 0.01}
scheduler: {name: homotopy, target: 0.5}
curvature: {signal: auto, freq: 10, budget: 0.05}
steps: 2000
batch_size: 16
seed: 1
"""
RESOLVED = {
    "name": "gpt_small",
    "model": {"name": "gpt", "layers": 5, "width": 64},
    "optimizer": {"name": "adamw", "lr": 3e-3, "betas": [0.9, 0.95]},
    "scheduler": {"name": "homotopy", "target": 0.5},
    "curvature": {"signal": "auto", "freq": 10, "budget": 0.05},
    "steps": 2000,
}
EDGE = 38.0  # Adam at beta1 = 0.9


def transformer_log(
    *, n: int = 2000, seed: int = 0, lr: float = 3e-3, spike: bool = True, path: str = "run.h5"
) -> RunLog:
    """A GPT run whose warmup emerges from the ceiling, with one loss spike at 60 % of it."""
    rng = np.random.default_rng(seed)
    step = np.arange(n)
    spike_at = int(0.6 * n)
    schedule = lr * (0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * step / n)))
    probe_step = np.unique(np.concatenate([np.arange(min(20, n)), np.arange(20, n, 10)]))
    m = len(probe_step)
    t = probe_step / 120
    sharp = EDGE / lr * (0.45 + 2.6 * np.exp(-t) + 22 * np.exp(-t * 9))
    sharp = sharp * np.exp(0.10 * rng.standard_normal(m))
    if spike:
        sharp *= 1 + 1.6 * np.exp(-0.5 * ((probe_step - spike_at + 15) / 25) ** 2)
    ceiling = np.minimum(0.5 * EDGE / sharp, lr * 3)
    ceiling_steps = np.interp(step, probe_step, ceiling)
    used = np.minimum(schedule, ceiling_steps)
    reason = np.where(used < schedule, 1.0, 0.0)
    rising = np.flatnonzero(np.diff(reason) < 0)
    for i in rising:
        reason[i + 1 : i + 25] = np.where(reason[i + 1 : i + 25] == 0, 2.0, reason[i + 1 : i + 25])
    loss = 1.55 + 2.6 * np.exp(-step / 55) + 0.55 * np.exp(-step / 700)
    loss = loss + 0.055 * rng.standard_normal(n)
    if spike:
        after = np.clip(step - spike_at, 0, None)
        loss += np.where(step >= spike_at, 1.4 * np.exp(-after / 9.0), 0.0)
    grad = 0.9 * np.exp(-step / 300) + 0.35 + 0.09 * np.abs(rng.standard_normal(n))
    grad += (
        np.where(step >= spike_at, 5.0 * np.exp(-np.clip(step - spike_at, 0, None) / 5), 0) * spike
    )
    clip = np.minimum(1.0, 1.0 / grad)
    step_seconds = 0.041 + 0.004 * rng.random(n)
    probe_seconds = np.zeros(n)
    probe_seconds[probe_step] = 0.018
    step_seconds = step_seconds + probe_seconds
    used_at = used[probe_step]
    names, kinds, numel = transformer_layers(5)
    depth = np.linspace(0.4, 1.6, len(names))
    base = np.exp(0.8 * rng.standard_normal(len(names))) * depth
    grow = np.exp(-probe_step / 150)[:, None] * 3 + 1
    layer_lambda = base * grow * np.exp(0.08 * rng.standard_normal((m, len(names))))
    lambda_max = 14 * (1 + 8 * np.exp(-t * 3)) * np.exp(0.07 * rng.standard_normal(m))
    layer_lambda *= (lambda_max / layer_lambda.max(axis=1))[:, None] * 0.8
    attention = np.array(["attn.qkv" in name for name in names])
    norms = np.array([kind == "LayerNorm" for kind in kinds])
    logit = (4 + 9 * (1 - np.exp(-probe_step / 400)))[:, None] * depth
    component = {
        "layer_attention_max_logit": np.where(attention, logit, np.nan),
        "layer_attention_entropy": np.where(attention, 40 / (10 + logit), np.nan),
        "layer_norm_sigma_min": np.where(norms, 0.7 / depth + 0 * logit, np.nan),
    }
    eval_step = np.arange(0, n + 1, max(1, n // 10))
    evals = 1.62 + 2.5 * np.exp(-eval_step / 60) + 0.55 * np.exp(-eval_step / 700)
    spectra = tuple(
        Spectrum(
            int(s),
            -1,
            *_density(rng, 14 * (1 + 8 * np.exp(-s / 40))),
            "density",
        )
        for s in np.linspace(0, n - 1, 9).astype(int)
    )
    events = (
        EventRecord(0, "info", "SCHEDULE", "cosine under a curvature ceiling, target 0.5"),
        EventRecord(3, "info", "LR_CEILING", "λ·lr/c = 6.1 > 0.5: lr 3.0e-3 → 2.5e-4"),
        *(sign_events(spike_at) if spike else ()),
        EventRecord(spike_at, "warning", "SPIKE", "loss 3.02 is 24 sd above its recent mean"),
        EventRecord(spike_at + 4, "info", "LR_CEILING", "λ·lr/c = 0.71 > 0.5: lr 1.1e-3 → 7.7e-4"),
    )
    return RunLog.empty(
        path,
        attrs={
            "format": "homotopy-run",
            "schema_version": "1.0",
            "run_id": "gpt_small-1",
            "writer": "homotopy 0.1.0",
            "created_utc": "2026-01-01T00:00:00Z",
            "status": "finished",
            "closed": 1,
            "attempts": 1,
        },
        step=step,
        steps={
            "loss": loss,
            "lr": used,
            "schedule_lr": schedule,
            "ceiling_lr": ceiling_steps,
            "lr_reason": reason,
            "grad_norm": grad,
            "update_norm": 12 * used * (1 + 0.1 * rng.standard_normal(n)),
            "clip_coef": clip,
            **signs(step, spike_at if spike else 2 * n),
            "wall_time": np.cumsum(step_seconds),
            "step_seconds": step_seconds,
            "probe_seconds_step": probe_seconds,
        },
        probe_step=probe_step,
        probes={
            "kappa": lambda_max / grad[probe_step] ** 2,
            "lambda_max": lambda_max,
            "lambda_min": -0.3 * lambda_max * np.exp(0.2 * rng.standard_normal(m)),
            "hessian_norm": lambda_max,
            "preconditioned_sharpness": sharp,
            "directional_sharpness": sharp * 0.22 * np.exp(0.3 * rng.standard_normal(m)),
            "edge_ratio": used_at * sharp / EDGE,
            "ceiling": ceiling,
            "residual": 0.004 * lambda_max,
            "converged": (rng.random(m) > 0.06).astype(float),
            "n_hvp": np.where(probe_step < 20, 6.0, 3.0),
            "probe_seconds": np.full(m, 0.018),
            "attention_max_logit": 4 + 9 * (1 - np.exp(-probe_step / 400)) + rng.random(m),
            "attention_entropy": 3.6 - 1.5 * (1 - np.exp(-probe_step / 500)),
            "norm_sigma_min": 0.4 + 0.2 * np.exp(-probe_step / 200) + 0.01 * rng.random(m),
            "p_q001": 1e-4 * np.exp(0.3 * rng.standard_normal(m)),
            "log_z_mean": 4 + 0.5 * np.sin(probe_step / 300),
        },
        layers=names,
        layer_numel=np.array(numel),
        layer_kind=kinds,
        layer_values={
            "layer_lambda_max": layer_lambda.astype("f4"),
            "layer_kappa": (layer_lambda / 0.02).astype("f4"),
            "layer_grad_norm": np.sqrt(layer_lambda / 40).astype("f4"),
            **{name: values.astype("f4") for name, values in component.items()},
        },
        eval_step=eval_step,
        evals={"eval_loss": evals},
        spectra=spectra,
        events=events,
        provenance={
            "recipe_source": RECIPE,
            "recipe_resolved": {**RESOLVED, "optimizer": {**RESOLVED["optimizer"], "lr": lr}},
            "environment": {"python": "3.11.7", "torch": "2.13.0", "threads": "1"},
            "argv": ("homotopy", "train", "recipes/gpt_small.yaml"),
            "seed": 1 + seed,
            "n_params": 221_184,
        },
    )


def signs(step: np.ndarray, spike_at: int) -> dict[str, np.ndarray]:
    """Early signs: update RMS passes its alarm five steps before the spike."""
    wave = np.sin(step / 7.0)
    ahead = np.exp(-(((step - spike_at + 5) / 1.5) ** 2))
    return {
        "update_rms": 1.1 + 0.15 * wave + 2.4 * ahead,
        "second_moment_ratio": 1.6 + 0.3 * wave + 4 * ahead,
        "logit_max": 2 + 14 * (1 - np.exp(-step / 300)) + 0.5 * wave,
        "noise_scale": np.where(step < 3, np.nan, 6 + step / 40 + wave),
    }


def sign_events(spike_at: int) -> tuple[EventRecord, ...]:
    """The alarm that `signs` raises."""
    said = "update_rms 3.5 is 9.0 sd above its recent mean and above 2.3: a loss spike tends to"
    return (EventRecord(spike_at - 5, "info", "UPDATE_RMS", f"{said} follow within 8 steps"),)


def transformer_layers(depth: int) -> tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...]]:
    """Names, kinds and sizes of a GPT's leaf modules."""
    rows = [("tok_emb", "Embedding", 16_640), ("pos_emb", "Embedding", 4096)]
    for i in range(depth):
        rows += [
            (f"blocks.{i}.ln_1", "LayerNorm", 128),
            (f"blocks.{i}.attn.qkv", "Linear", 12_480),
            (f"blocks.{i}.attn.proj", "Linear", 4160),
            (f"blocks.{i}.ln_2", "LayerNorm", 128),
            (f"blocks.{i}.mlp.fc", "Linear", 16_640),
            (f"blocks.{i}.mlp.proj", "Linear", 16_448),
        ]
    rows.append(("ln_f", "LayerNorm", 128))
    names, kinds, numel = zip(*rows, strict=True)
    return names, kinds, numel


def _density(rng: np.random.Generator, top: float) -> tuple[np.ndarray, np.ndarray]:
    """Quadrature nodes of a spectrum with a bulk at zero and a few outliers."""
    bulk = 0.02 * top * rng.standard_normal(60)
    outliers = top * np.array([1.0, 0.72, 0.55, 0.31, 0.22, -0.28])
    weights = np.concatenate([np.full(60, 1.0), np.full(6, 6e-4)])
    nodes = np.concatenate([bulk, outliers])
    order = np.argsort(nodes)
    return nodes[order].astype("f4"), (weights / weights.sum())[order].astype("f4")


def plain_log(n: int = 100, **changes) -> RunLog:
    """The smallest useful log: loss, lr, grad_norm, wall_time, kappa."""
    rng = np.random.default_rng(3)
    step = np.arange(n)
    loss = np.exp(-step / 40) + 0.02 * rng.random(n)
    log = RunLog.empty(
        "run.h5",
        attrs={"run_id": "plain", "status": "finished"},
        step=step,
        steps={
            "loss": loss,
            "lr": np.full(n, 0.1),
            "grad_norm": np.exp(-step / 60) + 0.05 * rng.random(n),
            "wall_time": step * 0.01,
        },
        probe_step=step,
        probes={"kappa": 1 + step / 20 + 0.1 * rng.random(n)},
    )
    from dataclasses import replace

    return replace(log, **changes)


def probe_log() -> RunLog:
    """What `homotopy probe --out` writes: one probe, no steps."""
    names, kinds, numel = transformer_layers(5)
    rng = np.random.default_rng(5)
    lambda_max = np.exp(rng.standard_normal(len(names)))[None].astype("f4")
    nodes, weights = _density(rng, 41.7)
    return RunLog.empty(
        "probe.h5",
        attrs={"run_id": "probe of run.pt", "status": "finished", "writer": "homotopy 0.1.0"},
        probe_step=np.array([300]),
        probes={
            "kappa": np.array([3.2]),
            "lambda_max": np.array([41.7]),
            "lambda_min": np.array([-11.7]),
            "hessian_norm": np.array([41.7]),
            "residual": np.array([0.004]),
            "converged": np.array([1.0]),
            "n_hvp": np.array([120.0]),
            "probe_seconds": np.array([12.5]),
            "probe_loss": np.array([1.93]),
            "probe_grad_norm": np.array([3.61]),
            "trace": np.array([512.0]),
            "trace_stderr": np.array([14.0]),
        },
        layers=names,
        layer_numel=np.array(numel),
        layer_kind=kinds,
        layer_values={"layer_lambda_max": lambda_max, "layer_kappa": lambda_max / 0.02},
        spectra=(Spectrum(300, -1, nodes, weights, "density"),),
        provenance={"n_params": 221_184, "seed": 0},
    )
