"""The probe's findings as sentences: what was measured, on what, and what it means."""

from typing import Any

from homotopy_cli.cli.edges import MOMENTUM
from homotopy_cli.cli.render import short
from homotopy_cli.cli.symbols import symbols

TERMS = {"next_token": "tokens", "mse": "rows", "bce": "rows"}  # what a loss is a mean over


def headline(loaded: Any, estimate: Any, made: dict[str, Any]) -> list[str]:
    """What was probed, then the two or three things a reader must know first."""
    checkpoint, problem = loaded.checkpoint, loaded.problem
    where = [f"{checkpoint.path} ({checkpoint.kind}"]
    if checkpoint.entry:
        where.append(f", weights {checkpoint.entry!r}")
    if checkpoint.prefix_removed:
        where.append(f", prefix {checkpoint.prefix_removed!r} removed")
    batches = len(problem.batches)
    terms = TERMS.get(problem.criterion_name, "terms")
    terms = terms if estimate.n_terms != 1 else terms.removesuffix("s")
    lines = [
        "".join(where) + ")",
        f"{estimate.n_params:,} parameters; loss {problem.criterion_name}"
        f"{', summed' if problem.loss.sums else ''} over "
        f"{estimate.n_terms:,} {terms} in {batches} batch{'es' if batches != 1 else ''}; "
        f"{estimate.mode} mode, {estimate.dtype}",
    ]
    lines += list(loaded.notes)
    if problem.frozen:
        lines.append(f"frozen, not differentiated: {listed(problem.frozen)}")
    lines.append("")
    lines.append(f"Loss {short(estimate.loss, 5)}, gradient norm {short(estimate.grad_norm)}.")
    lines += sharpness_sentences(estimate, made["edges"])
    lines += rate_sentences(made)
    lines += kappa_sentences(estimate)
    return lines


def sharpness_sentences(estimate: Any, edge: dict[str, Any]) -> list[str]:
    top, low = estimate.lambda_max, estimate.lambda_min
    lines = []
    if top is not None and estimate.curvature == "preconditioned":
        text = f"λ_max(P⁻¹H) = {short(top.value, 5)}: "
        if edge["adam"] is None:
            lines.append(text + "no direction curves upwards.")
        else:
            lines.append(
                f"{text}this checkpoint's optimizer diverges along it above lr "
                f"{short(edge['adam'], 3)}. λ, trace, density and layers below are of "
                "M = P^-1/2 H P^-1/2, and κ's g is P^-1/2 g; ‖g‖ is plain."
            )
    elif top is not None:
        if top.value > 0:
            what = "Sharpness λ_max"
            if estimate.curvature == "ggn":
                what = "Of the Gauss-Newton matrix G, which stands for H here, λ_max(G)"
            relation = "=" if top.converged else "≥"  # a Rayleigh quotient is a lower bound
            text = (
                f"{what} {relation} {short(top.value, 5)}: plain gradient descent diverges along "
                f"it above lr {short(edge['sgd'], 3)}, momentum {MOMENTUM} above "
                f"{short(edge['momentum'], 3)}"
            )
            if edge["adam"] is not None:
                text += ", this checkpoint's optimizer, in its own metric, above "
                text += short(edge["adam"], 3)
            lines.append(text + ".")
        else:
            name = symbols(estimate.curvature).of("λ_max")
            lines.append(f"{name} = {short(top.value, 5)}: no direction curves upwards.")
    if top is not None and low is not None and abs(low.value) > abs(top.value):
        lines.append(
            f"The most negative eigenvalue wins: |λ_min| = {short(abs(low.value), 5)} is larger "
            f"than λ_max, so ‖{symbols(estimate.curvature).matrix}‖ is set by a direction of "
            "escape, not by a wall."
        )
    ranked = [b for b in estimate.blocks if b.hessian_norm]
    if len(ranked) > 1:
        ranked.sort(key=lambda b: -b.hessian_norm)
        lines.append("Sharpest layers: " + listed([b.name for b in ranked[:3]]) + ".")
    return lines


def rate_sentences(made: dict[str, Any]) -> list[str]:
    """How far the learning rate in use is from the edges."""
    lr, ratios = made["lr"], made["edge_ratios"]
    named = {
        "own": "this checkpoint's optimizer's",
        "sgd": "plain SGD's",
        "momentum": "momentum 0.9's",
    }
    if ratios["own"] is None:
        named.pop("own")
    parts = [f"{short(ratios[k], 3)} of {v}" for k, v in named.items() if ratios[k] is not None]
    if lr["value"] is None or not parts:
        return []
    worst = ratios["own"] if ratios["own"] is not None else ratios["sgd"]
    verdict = "below the edge of stability"
    if worst > 0.7:
        verdict = "beyond the edge of stability" if worst > 1 else "near the edge of stability"
    return [
        f"Learning rate {short(lr['value'], 3)} ({lr['source']}) is {verdict}: {', '.join(parts)}. "
        "Small batches destabilise earlier than these full-batch edges say."
    ]


def range_sentences(ranges: Any, edge: dict[str, Any]) -> list[str]:
    """What the forward passes found, beside the edges of the quadratic."""
    lines = []
    for found in ranges:
        scaled = found.along == "preconditioned_gradient"
        step = "P⁻¹g (the optimizer's own step)" if scaled else "the gradient"
        at = edge["adam"] if scaled else edge["sgd"]
        if found.critical is None:
            why = "no tried rate raised the loss" if found.high is None else "g is zero or rounding"
            lines.append(f"Critical learning rate along {step}: none ({why}).")
            continue
        beside = "" if at is None else f"; its edge from the spectrum is {short(at, 3)}"
        lines.append(
            f"Critical learning rate along {step}: {short(found.critical, 3)} "
            f"(between {short(found.low, 3)} and {short(found.high, 3)}, "
            f"{found.n_forwards} forward passes): a longer step raises this batch's loss{beside}."
        )
    return lines


def kappa_sentences(estimate: Any) -> list[str]:
    named = symbols(estimate.curvature)
    what, size = named.kappa.replace("‖₂", "‖"), f"‖{named.matrix}‖"
    if estimate.kappa is None:
        return [f"{what} is {estimate.kappa_reason}."]
    if not estimate.kappa:
        return ["κ = 0: no curvature along any direction measured."]
    return [
        f"{what} = {short(estimate.kappa, 5)} per unit of loss: one step of 1/{size} is sure "
        f"to gain {short(estimate.predicted_decrease, 3)} on a quadratic. It is no condition "
        "number, and it grows without bound towards a minimum."
    ]


def closing(estimate: Any) -> list[str]:
    """Cost, convergence and what to distrust."""
    cost = estimate.cost
    method = cost.method.replace("_", " ")
    lines = [cost_sentence(cost, sum(block.n_hvp for block in estimate.blocks))]
    if cost.fallback_reason:
        lines.append(f"Fell back to {method}: {cost.fallback_reason}.")
    lines += check_sentences(estimate.checks)
    if not estimate.converged:
        lines.append(
            "Not everything converged, and those values say so. Their ± reaches some eigenvalue; "
            "the ends may lie further out: raise --max-hvp or loosen --rtol."
        )
    lines += [f"warning: {text}" for text in estimate.warnings]
    lines += component_sentences(estimate.components)
    return lines


def cost_sentence(cost: Any, n_block: int) -> str:
    """How many products, what they cost in gradients, and by what measure."""
    measures = {"cpu_time": "by CPU time", "device_time": "by time on the device"}
    measure = measures.get(cost.basis, "counted")
    of_layers = f", {n_block:,} of them of single layers" if n_block else ""
    return (
        f"{cost.n_hvp:,} Hessian-vector products{of_layers} "
        f"({cost.method.replace('_', ' ')}) = {cost.gradient_equivalents:,.0f} gradients "
        f"{measure}, {cost.seconds:.1f} s in all."
    )


def check_sentences(checks: Any) -> list[str]:
    """That the products were tested, and how well they did; faults are among the warnings."""
    if checks is None:
        return []
    text = f"Products tested: asymmetry {checks.symmetry_error:.0e}"
    if checks.difference_error is not None and checks.difference_bound < 1.0:
        found, bound = checks.difference_error, f"bound {checks.difference_bound:.0e}"
        if found > checks.difference_bound:
            bound = (
                f"above {checks.difference_bound:.0e}, what truncation and rounding explain: kinks"
            )
        text += f", distance to a difference of gradients {found:.0e} ({bound})"
    elif checks.difference_error is not None:
        text += "; no finite step is fine enough here to test them against (try --dtype float64)"
    return [text + "."]


def noise_sentences(noise: Any) -> list[str]:
    """The batch size at which the gradient's noise equals its signal."""
    if noise is None:
        return []
    lines = []
    if noise.noise_scale is None:
        lines.append(f"Gradient noise scale {noise.noise_scale_reason}.")
    else:
        scale = noise.noise_scale
        lines.append(
            f"Gradient noise scale tr Σ/‖G‖² = {short(scale.value)} ± {scale.stderr:.1e} (s.e.) "
            f"terms, from {noise.n_batches} batches of {short(noise.batch_size)}: below that "
            "batch size noise dominates a gradient, above it larger batches gain little."
        )
    if noise.batch_sharpness is not None:
        sharp = noise.batch_sharpness
        lines.append(
            f"Batch sharpness g'Hg/‖g‖², mean over batches: {short(sharp.value)} ± "
            f"{sharp.stderr:.1e} (s.e.); small-batch SGD holds this one at 2/lr."
        )
    return lines


def component_sentences(components: Any) -> list[str]:
    """The most extreme attention, norm and target of the batch, in a line each."""
    from homotopy_cli.records import SEED_KAPPA_WORTH

    if components is None:
        return []
    lines, seeds = [], []
    if components.attention:
        site = max(components.attention, key=lambda a: a.max_logit)
        flat = min(components.attention, key=lambda a: a.entropy_normalised)
        heads = site.head_max_logit
        where = f", head {heads.index(site.max_logit)}" if len(heads) > 1 else ""
        lines.append(
            f"Attention: largest logit {short(site.max_logit, 3)} in {site.name}{where}; lowest "
            f"mean entropy {short(flat.entropy, 3)} nats ({flat.entropy_normalised:.0%} of "
            f"uniform) in {flat.name}."
        )
        seeds.append(("e^(2·logit)", site.seed_kappa))
    if components.norm:
        low = min(components.norm, key=lambda n: n.sigma_min)
        lines.append(
            f"Norms: smallest σ {short(low.sigma_min, 3)} in {low.name} "
            f"(ε/σ² {low.eps_over_var:.1e})."
        )
        seeds.append(("1/σ²", low.seed_kappa))
    if components.cross_entropy is not None:
        output = components.cross_entropy
        lines.append(
            f"Output: smallest target probability {short(output.p_min, 3)}, 1 % quantile "
            f"{short(output.p_q01, 3)}, mean log Z {short(output.log_z_mean, 3)}."
        )
        seeds.append(("1/p", output.seed_kappa))
    known = [f"{formula} = {short(value, 2)}" for formula, value in seeds if value is not None]
    if known:
        lines.append(f"seed_kappa {', '.join(known)}: {SEED_KAPPA_WORTH}.")
    return lines + [f"Components: {note}." for note in components.notes]


def listed(names: Any, limit: int = 4) -> str:
    """`a, b, c and 3 more`."""
    names = list(names)
    text = ", ".join(names[:limit])
    return text if len(names) <= limit else f"{text} and {len(names) - limit} more"
