"""`homotopy probe`: the options. What they do is in probing.py, which may import torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from homotopy_cli.cli.debug import Debug

Curvature = Literal["hessian", "ggn", "preconditioned"]
Engine = Literal[
    "auto", "double_backward", "forward_over_reverse", "central_difference", "forward_difference"
]


@dataclass(frozen=True)
class ProbeOptions:
    """What the user asked for, one field per option of `homotopy probe`."""

    checkpoint: Path
    model: str | None
    model_arg: tuple[str, ...]
    loss: str | None
    batch: tuple[Path, ...]
    recipe: Path | None
    text: Path | None
    entry: str | None
    layers: str
    curvature: str
    hvp: str
    quick: bool
    top_k: int
    ends: str
    density: bool
    trace: bool
    trace_method: str
    checks: bool
    noise: bool
    lr: float | None
    lr_range: bool
    compare: Path | None
    mode: str
    rtol: float | None
    max_hvp: int | None
    microbatch: int | None
    dtype: str
    device: str
    seed: int
    validate: bool
    validate_limit: int
    trust_pickle: bool
    trust_code: bool
    dry_run: bool
    budget: str | None
    max_memory: str | None
    json: str | None
    out: Path | None
    html: Path | None
    fail_on: tuple[str, ...]
    quiet: bool


def probe(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="Checkpoint file or folder.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="file.py:callable or package.module:callable."),
    ] = None,
    model_arg: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Argument of --model (YAML).")
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|TARGET",
            help="cross_entropy, next_token, mse, bce, output, or a callable loss(model, batch).",
        ),
    ] = None,
    batch: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help=".pt, .npz or .safetensors; repeat for several."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take model, loss and data from a recipe.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text to measure a language model on.")
    ] = None,
    entry: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which set of weights (model, ema, ...).")
    ] = None,
    layers: Annotated[
        str, typer.Option(metavar="KIND", help="module, parameter, none, or a regex of names.")
    ] = "module",
    curvature: Annotated[Curvature, typer.Option(help="Which matrix.")] = "hessian",
    hvp: Annotated[Engine, typer.Option(help="How products are made; auto says what it took.")] = (
        "auto"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="λ_max, ‖H‖ and κ only: the cheapest probe.")
    ] = False,
    top_k: Annotated[
        int,
        typer.Option(
            min=1,
            help="How many eigenvalues, by magnitude, for --json. Above 1,000 parameters copies of "
            "equal ones may be missing.",
        ),
    ] = 5,
    ends: Annotated[
        Literal["both", "max"], typer.Option(help="max: leave out λ_min, which costs most.")
    ] = "both",
    density: Annotated[bool, typer.Option(help="The spectral density.")] = True,
    trace: Annotated[bool, typer.Option(help="Trace and Frobenius norm.")] = True,
    trace_method: Annotated[
        Literal["hutchinson", "hutch++"], typer.Option(help="Estimator of the trace.")
    ] = "hutchinson",
    checks: Annotated[
        bool,
        typer.Option(help="Test the products: symmetry, finite difference, kinks, float64."),
    ] = True,
    noise: Annotated[
        bool, typer.Option("--noise", help="Gradient noise scale and batch sharpness; 3+ batches.")
    ] = False,
    lr: Annotated[
        float | None,
        typer.Option(min=0.0, help="Rate to hold against the edges; default the checkpoint's."),
    ] = None,
    lr_range: Annotated[
        bool, typer.Option("--lr-range", help="Critical learning rate, by forward passes.")
    ] = False,
    compare: Annotated[
        Path | None, typer.Option(metavar="OTHER", help="A second checkpoint, side by side.")
    ] = None,
    mode: Annotated[Literal["eval", "train"], typer.Option(help="Module mode.")] = "eval",
    rtol: Annotated[
        float | None,
        typer.Option(help="Residual tolerance, relative: above 0, below 1; default 1e-3."),
    ] = None,
    max_hvp: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most products for each eigenproblem (the whole, each layer), the traces and the "
            "density. Default 300; up to 1,000 parameters as many as it takes to be exact.",
        ),
    ] = None,
    microbatch: Annotated[int | None, typer.Option(min=1, help="Rows at a time; exact.")] = None,
    dtype: Annotated[Literal["float32", "float64"], typer.Option(help="Precision.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "cpu",
    seed: Annotated[
        int, typer.Option(min=-(2**63), max=2**63 - 1, help="Seed of the random vectors.")
    ] = 0,
    validate: Annotated[
        bool, typer.Option("--validate", help="Full Hessian beside every estimate.")
    ] = False,
    validate_limit: Annotated[int, typer.Option(min=1, help="Largest --validate model.")] = 5000,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Let a pickle run code. Only for files you made.")
    ] = False,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Run the user code a checkpoint's recipe names.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost and stop.")
    ] = False,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="60s, 5m: return what is there by then.")
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="2GiB, 500MB: of Lanczos vectors; restarts.")
    ] = None,
    json: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Strict JSON; - is stdout, nothing else.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.h5", help="A one-row log that report can read.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="A page.")] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(metavar="EXPR", help="Exit 1 if true: 'lambda_max > 500', 'not converged'."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    debug: Debug = False,
) -> int:
    """Measure a checkpoint: Hessian spectrum and curvature, overall and per layer.

    Our own checkpoints need no further option, unless the recipe names your own code: --recipe
    r.yaml. Others need the model, the loss and a batch:
    homotopy probe ckpt.pt --model model.py:build --loss model.py:loss --batch batch.pt
    """
    given = dict(locals())  # the options, before anything else has a name here
    del given["debug"]
    given |= {key: tuple(given[key] or ()) for key in ("model_arg", "batch", "fail_on")}
    from homotopy_cli.cli.probing import run_probe
    from homotopy_cli.cli.ranks import alike, refuse_launcher

    alike(lambda: refuse_launcher("a probe", f"homotopy probe {checkpoint} without torchrun"))
    return run_probe(ProbeOptions(**given))
