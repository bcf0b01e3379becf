"""Records -> what a person reads in the terminal: sentences first, tables after."""

import math
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from homotopy_cli.cli.symbols import symbols

BAR = 16  # characters of the longest bar
MEASURED = 10_000  # columns: more than any table asks for


def console(*, stderr: bool = False) -> Console:
    """A console that follows the terminal; wide enough when piped that no cell is cut."""
    made = Console(stderr=stderr, highlight=False, soft_wrap=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=160)


def print_table(target: Console, table: Table) -> None:
    """Print with every cell whole: a terminal that is too narrow breaks the lines instead."""
    room = target.options.update(width=MEASURED, max_width=MEASURED)
    before = target.width
    target.width = max(before, Measurement.get(target, room, table).maximum)
    try:
        target.print(table, crop=False)
    finally:
        target.width = before


def short(value: float | None, digits: int = 4) -> str:
    """`value` with `digits` significant digits; a dash when there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:.{decimals}f}"
    return f"{value:.{digits - 1}e}"


def above(value: float | None, residual: float | None, digits: int = 4) -> str:
    """`value`, or 0 where it is smaller than its own error."""
    if value is not None and residual is not None and abs(value) <= residual:
        return "0"
    return short(value, digits)


def error_of(residual: float | None) -> str:
    return "" if residual is None else f"± {residual:.1e}"


def bar(fraction: float) -> str:
    """A horizontal bar in eighths of a character."""
    eighths = round(max(0.0, min(1.0, fraction)) * BAR * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def plain_table(title: str, *columns: tuple[str, str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name, justify in columns:
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    return table


def overall_table(estimate: Any) -> Table:
    """λ, ‖H‖, trace, κ of the whole model, each with its error and whether it converged."""
    from homotopy_cli.curvature.kappa import kappa_error, norm_error

    named = symbols(estimate.curvature)
    table = plain_table(
        f"Overall, {named.matrix} = {named.meaning}" if named.meaning else "Overall",
        ("quantity", "left"),
        ("value", "right"),
        ("error", "left"),
        ("", "left"),
    )

    def eigen(name: str, record: Any) -> None:
        if record is not None:
            word = "" if record.converged else "not converged"
            table.add_row(name, short(record.value, 6), error_of(record.residual), word)

    eigen(named.top, estimate.lambda_max)
    eigen(named.of("λ_min"), estimate.lambda_min)
    size = f"‖{named.matrix}‖"
    if estimate.hessian_norm is not None:
        error = error_of(norm_error(estimate))
        words = "larger of the two ends" if estimate.norm_converged else "not converged"
        table.add_row(f"{size}₂", short(estimate.hessian_norm, 6), error, words)
    moments = ((f"{size}_F", estimate.frobenius_norm), (named.of("trace"), estimate.trace))
    for name, record in moments:
        if record is not None:
            kind = f"{record.n_probes} random vectors"
            if record.n_probes == 0:
                how = "by differences" if "difference" in estimate.cost.method else "in float32"
                kind = f"n products {how}" if record.stderr else "exact"
            spread = "" if kind == "exact" else f"± {record.stderr:.1e} (s.e.)"
            table.add_row(name, short(record.value, 6), spread, kind)
    rounded = "rounding" if estimate.grad_error is not None else ""
    table.add_row("‖g‖", short(estimate.grad_norm, 6), error_of(estimate.grad_error), rounded)
    kappa = short(estimate.kappa, 6) if estimate.kappa is not None else "undefined"
    reason = estimate.kappa_reason.removeprefix("undefined: ")
    error = kappa_error(estimate)
    unit = "1/loss" if estimate.norm_converged else "1/loss; not converged"
    table.add_row(named.kappa, kappa, error_of(error), reason or unit)
    gain = estimate.predicted_decrease
    if gain is not None:
        spread = error_of(None if error is None else gain * error / estimate.kappa)
        words = f"loss one 1/{size} step gains" if estimate.norm_converged else "not converged"
        table.add_row("1/(2κ)", short(gain), spread, words)
    if estimate.curvature != "preconditioned":  # there it is the first row
        eigen(named.scaled, estimate.preconditioned_sharpness)
    return table


def layer_table(
    blocks: Any, *, curvature: str = "hessian", width: int = 160, limit: int = 40
) -> Table:
    """One row per block, sharpest first; the bar is ‖H_bb‖ relative to the largest.

    On a narrow terminal the columns that matter least are left out; print_table cuts no cell.
    """
    named = symbols(curvature)
    size, block_matrix = f"‖{named.matrix}_bb‖₂", f"{named.matrix}_bb"
    ranked = sorted(blocks, key=lambda b: (b.hessian_norm is None, -(b.hessian_norm or 0.0)))
    top = max((b.hessian_norm or 0.0 for b in blocks), default=0.0) or 1.0
    columns: list[tuple[str, Any, int]] = [  # name, cell of a block, narrowest width that shows it
        ("layer", lambda b: escape(b.name), 0),
        ("kind", lambda b: escape(b.kind), 150),
        ("params", lambda b: f"{b.n_params:,}", 0),
        (named.grad, lambda b: short(b.grad_norm, 3), 100),
        ("λ_min", lambda b: above(b.lambda_min, b.residual, 3), 115),
        ("λ_max", lambda b: above(b.lambda_max, b.residual), 0),
        ("error", block_error, 0),
        ("trace", lambda b: short(b.trace.value, 3) if b.trace else "-", 130),
        ("± s.e.", lambda b: short(b.trace.stderr, 2) if b.trace else "", 140),
        ("κ", lambda b: short(b.kappa) if b.kappa is not None else "undefined", 0),
        ("± κ", block_kappa_error, 145),
        (size, lambda b: bar(b.hessian_norm / top) if b.hessian_norm else state_words(b), 0),
    ]
    shown = [column for column in columns if column[2] <= width]
    left = ("layer", "kind", "error", "± κ", size)
    table = plain_table(
        f"Layers, sharpest first (each is its own diagonal block {block_matrix})",
        *((name, "left" if name in left else "right") for name, _, _ in shown),
    )
    for block in ranked[:limit]:
        table.add_row(*(cell(block) for _, cell, _ in shown))
    if len(ranked) > limit:
        table.caption = f"{len(ranked) - limit} more layers: see --json, or group with --layers"
    return table


def block_error(block: Any) -> str:
    note = "" if block.converged or block.hessian_norm is None else " not converged"
    return error_of(block.residual) + note


def block_kappa_error(block: Any) -> str:
    from homotopy_cli.curvature.kappa import kappa_error

    return error_of(kappa_error(block)).removeprefix("± ")


def state_words(block: Any) -> str:
    """Why a block has no bar."""
    if block.state == "not_reached":
        return "not reached by this batch"
    if block.state == "constant_gradient":
        return "0: the gradient is constant here"
    if block.state == "frozen":
        return "frozen"
    if block.state == "not_measured":
        return "not measured: stopped early"
    return "0: piecewise linear in this layer" if block.hessian_norm == 0 else ""


def density_lines(density: Any, *, rows: int = 12) -> list[str]:
    """The spectral density as text: one line per bin, share of eigenvalues on a log scale."""
    low, high = float(density.nodes[0]), float(density.nodes[-1])
    if not high > low:
        return [f"all of the spectrum is at {short(low)}"]
    width = (high - low) / rows
    mass = [0.0] * rows
    for node, weight in zip(density.nodes, density.weights, strict=True):
        mass[min(rows - 1, int((float(node) - low) / width))] += float(weight)
    floor = -6.0
    lines = []
    for index, share in reversed(list(enumerate(mass))):
        edge = f"{short(low + index * width, 3):>10} … {short(low + (index + 1) * width, 3):<10}"
        level = 0.0 if share <= 0 else 1 - max(math.log10(share), floor) / floor
        lines.append(f"{edge} {bar(level):<{BAR}} {share:.1e}" if share > 0 else edge)
    return lines


def validation_table(records: Any, curvature: str = "hessian") -> Table:
    named = symbols(curvature)
    whole = {"H": "Hessian", "G": "Gauss-Newton matrix"}.get(named.matrix, named.meaning)
    dtype = next((v.exact_dtype for v in records), "float64")
    shared = "" if dtype == "float64" else ", as the estimate"  # rounding in both: not seen
    table = plain_table(
        f"Validation against the full {whole} ({dtype}{shared})",
        ("quantity", "left"),
        ("estimate", "right"),
        ("exact", "right"),
        ("rel. error", "right"),
        ("own bound", "right"),
        ("inside", "left"),
    )
    words = {True: "yes", False: "NO", None: ""}
    for v in records:
        bound = "-" if v.bound is None else f"{v.bound:.1e}"
        nothing = v.bound is not None and max(abs(v.exact), abs(v.estimate)) <= v.bound
        table.add_row(
            escape(v.quantity),
            "0" if nothing else short(v.estimate, 7),
            "0" if nothing else short(v.exact, 7),
            "-" if nothing else f"{v.relative_error:.1e}",
            bound,
            words[v.within_bound],
        )
    return table
