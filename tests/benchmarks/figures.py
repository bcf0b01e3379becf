"""The two still pictures of sample_runs, drawn from the experiments' results in a real Chromium.

    python -m tests.benchmarks.figures rates sample_runs/experiments/char_gpt.csv --out rates.png
    python -m tests.benchmarks.figures auto seed1.csv seed2.csv seed3.csv \
        --evals runs/auto --beside runs/char_gpt --out lr.png

`rates`: held-out loss against the rate that was asked for, medians over seeds and their range.
`auto`: rates and held-out losses of mode auto beside the best cosine's.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from homotopy_cli.runlog.reader import RunLog, read_log
from tests.benchmarks.experiments import cells, median

sys.path.insert(0, str(Path(__file__).parent.parent / "browser"))

WIDTH, HEIGHT = 1220, 470
COLORS = ("#2460c4", "#b8501c", "#22803f")
ARMS = {  # arm -> (name, colour, dash)
    "warmup10": ("cosine, 10 % warmup", "#8a8f98", "dot"),
    "warmup25": ("cosine, 25 % warmup", "#4b5058", "solid"),
    "guard": ("the 10 % cosine under HomotopyLR", "#2460c4", "solid"),
    "wsd": ("level to the last fifth, 10 % warmup", "#c9a227", "dot"),
    "guard_wsd": ("the same under HomotopyLR, no warmup", "#b03a7a", "solid"),
    "schedule_free": ("Schedule-Free AdamW", "#b8501c", "dash"),
    "auto": ("mode auto: no rate given", "#22803f", "solid"),
    "prodigy": ("Prodigy: no rate given", "#7a4bb0", "dash"),
}


def rates_figure(path: Path) -> go.Figure:
    """Loss against rate, one line an arm; arms without a rate are level lines."""
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tuned = cells([r for r in rows if r["optimizer.lr"]], ("profile", "optimizer.lr"), "val_loss")
    free = cells([r for r in rows if not r["optimizer.lr"]], ("profile",), "val_loss")
    rates = sorted({float(lr) for _, lr in tuned})
    figure = go.Figure()
    for arm, (name, color, dash) in ARMS.items():
        mine = sorted((float(lr), values) for (a, lr), values in tuned.items() if a == arm)
        if (arm,) in free:
            mine = [(lr, free[(arm,)]) for lr in (rates[0], rates[-1])]
        if not mine:
            continue
        middle = [median(values) for _, values in mine]
        figure.add_scatter(
            x=[lr for lr, _ in mine],
            y=middle,
            name=name,
            line={"color": color, "dash": dash, "width": 2.5},
            mode="lines" if (arm,) in free else "lines+markers",
            error_y={
                "array": [max(v.values()) - m for (_, v), m in zip(mine, middle, strict=True)],
                "arrayminus": [m - min(v.values()) for (_, v), m in zip(mine, middle, strict=True)],
                "thickness": 1.2,
            },
        )
    figure.update_xaxes(
        type="log", title="learning rate asked for", dtick=1, exponentformat="power"
    )
    figure.update_yaxes(title="held-out loss after 2,000 steps", range=[1.5, 2.5])
    return figure


def auto_figure(steps: Sequence[Path], evals: Path, beside: Path) -> go.Figure:
    """Mode auto's rate and held-out loss, seed by seed, beside a hand-tuned cosine's."""
    figure = make_subplots(
        cols=2, subplot_titles=("learning rate (none was given)", "held-out loss")
    )

    def held_out(run: RunLog, line: dict[str, Any]) -> None:
        x, y = run.eval_step, run.evals["eval_loss"]
        figure.add_scatter(x=x, y=y, mode="lines", line=line, showlegend=False, row=1, col=2)

    for i, log in enumerate(sorted(beside.glob("*warmup25_lr=1e-2*.h5"))):
        run, line = read_log(log), {"color": "#9a9a9a", "width": 2.5}
        figure.add_scatter(
            x=run.step, y=run.steps["lr"], line=line, name="cosine, tuned by hand", showlegend=not i
        )
        held_out(run, line)
    for path, log, color in zip(steps, sorted(evals.glob("*.h5")), COLORS, strict=True):
        with open(path, encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        line, name = {"color": color, "width": 2}, f"auto, seed {path.stem.removeprefix('seed')}"
        figure.add_scatter(
            x=[r["step"] for r in rows], y=[r["lr"] for r in rows], line=line, name=name
        )
        held_out(read_log(log), line)
    figure.update_xaxes(title="optimizer step")
    figure.update_yaxes(type="log", exponentformat="power", dtick=1, row=1, col=1)
    figure.update_yaxes(range=[1.5, 2.6], row=1, col=2)
    return figure


def save(figure: go.Figure, target: Path) -> None:
    """A PNG of the figure, by the browser that the page's tests use."""
    from chromium_pipe import find_browser

    figure.update_layout(
        template="plotly_white",
        width=WIDTH,
        height=HEIGHT,
        font={"size": 14},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.2},
        margin={"t": 40, "r": 30},
    )
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        figure.write_html(page, config={"staticPlot": True})
        subprocess.run(
            [
                find_browser(),
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={folder}/profile",
                f"--window-size={WIDTH + 16},{HEIGHT + 16}",
                "--virtual-time-budget=4000",
                f"--screenshot={target.absolute()}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
        )


def main() -> None:
    """Draw one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    rates = kinds.add_parser("rates")
    rates.add_argument("table", type=Path)
    auto = kinds.add_parser("auto")
    auto.add_argument("steps", type=Path, nargs="+")
    auto.add_argument("--evals", type=Path, required=True)
    auto.add_argument("--beside", type=Path, required=True)
    for kind in (rates, auto):
        kind.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.kind == "rates":
        figure = rates_figure(options.table)
    else:
        figure = auto_figure(options.steps, options.evals, options.beside)
    save(figure, options.out)


if __name__ == "__main__":
    main()
