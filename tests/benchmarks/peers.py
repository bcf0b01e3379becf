"""This library beside its peers: the same networks, the same questions, one process.

    pip install '.[bench]'
    python -m tests.benchmarks.peers --out sample_runs/benchmarks

Every method runs in rounds, in a new random order each; the cost of a run is its CPU time over that
of one forward and backward pass timed just before and after it, in gradient-equivalents (G).
Medians are shown. A method that fails is listed with its error. Peak memory is that of tensors,
from a run of its own under the profiler; on the larger networks for λ_max only, where the
profiler's own records stay small.
"""

import argparse
import json
import random
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.models import Case, build, criterion
from tests.benchmarks.oracle import Truth, truth
from tests.benchmarks.questions import QUESTIONS, Answer, Contender

SMALL = 100_000  # parameters: below, memory is counted tensor by tensor
GOALS = {  # G, from what was measured of the peers before
    "lambda_max": {"mlp": 40, "resnet": 26, "gpt": 35},
    "top 10": {"mlp": 70, "resnet": 112, "gpt": 96},
    "layers": {"mlp": 32, "resnet": 127, "gpt": 125},
}


def main() -> None:
    """Run the comparison and write peers.json and peers.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("sample_runs/benchmarks"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=["mlp", "resnet", "gpt"])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    from tests.benchmarks import ours, rivals

    contenders = (*ours.CONTENDERS, *rivals.CONTENDERS)
    rows: list[dict[str, Any]] = []
    for name in options.cases:
        case = build(name)
        rows += compare(case, truth(case), contenders, options.rounds)
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "peers.json").write_text(json.dumps(rows, indent=1) + "\n")
        (options.out / "peers.md").write_text(table(rows))


def compare(
    case: Case, exact: Truth, contenders: tuple[Contender, ...], rounds: int
) -> list[dict[str, Any]]:
    """Return one row for each contender on one case."""
    asked = [c for c in contenders if case.name in c.runs_on]
    runs: dict[int, list[dict[str, Any]]] = {i: [] for i in range(len(asked))}
    failed: dict[int, str] = {}
    peaks: dict[int, float] = {}
    small = case.n_params < SMALL
    gradient_bytes = peak_bytes(lambda: gradient(case))
    order = random.Random(0)
    for round_ in range(-1, rounds):
        for i in order.sample(range(len(asked)), len(asked)):
            if i in failed:
                continue
            try:
                if round_ < 0 and not small and asked[i].question != "lambda_max":
                    continue
                if round_ < 0:
                    peak = peak_bytes(lambda i=i: asked[i].run(case, 0))
                    peaks[i] = round(peak / gradient_bytes, 2)
                    continue
                run = measured(lambda i=i, r=round_: asked[i].run(case, r + 1), case)
            except Exception as error:
                failed[i] = f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
                continue
            runs[i].append(run)
    return [
        row(case, exact, contender, runs[i], failed.get(i, "")) | {"peak_memory": peaks.get(i)}
        for i, contender in enumerate(asked)
    ]


def measured(run: Callable[[], Answer], case: Case) -> dict[str, Any]:
    """Run once; its cost in gradients and seconds beside the answer."""
    before = gradient_seconds(case)
    wall, cpu = time.perf_counter(), time.process_time()
    answer = run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    unit = 0.5 * (before + gradient_seconds(case))
    return {"answer": answer, "G": cpu / unit, "seconds": wall}


def gradient_seconds(case: Case, at_least: float = 0.2) -> float:
    """CPU seconds of one forward and backward pass, the median of as many as fill `at_least`."""
    times: list[float] = []
    while sum(times) < at_least or len(times) < 3:
        started = time.process_time()
        gradient(case)
        times.append(time.process_time() - started)
    return statistics.median(times)


def gradient(case: Case) -> None:
    """One forward and backward pass: the unit of cost, and of memory."""
    torch.autograd.grad(criterion(case.model(case.batch[0]), case.batch[1]), case.params)


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes of tensors that `run` held at once, above those there before it."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as recorded:
        run()
    held = peak = 0
    events = recorded.profiler.kineto_results.events()
    for event in sorted(
        (e for e in events if e.name() == "[memory]"), key=lambda event: event.start_ns()
    ):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def row(
    case: Case, exact: Truth, contender: Contender, runs: list[dict[str, Any]], failure: str
) -> dict[str, Any]:
    """The medians of one contender's runs, with its worst error."""
    made: dict[str, Any] = {
        "case": case.name,
        "question": contender.question,
        "method": contender.name,
        "goal_G": GOALS.get(contender.question, {}).get(case.name)
        if contender.name == "ours"
        else None,
        "failure": failure or None,
    }
    if not runs:
        return made
    answers = [run["answer"] for run in runs]
    return made | {
        "worst_error": max(error_of(contender.question, a, exact) for a in answers),
        "certified": all(a.certified for a in answers),
        "products": statistics.median(a.n_products for a in answers),
        "G": round(statistics.median(run["G"] for run in runs), 1),
        "seconds": round(statistics.median(run["seconds"] for run in runs), 3),
        "note": answers[0].note,
    }


def error_of(question: str, answer: Answer, exact: Truth) -> float:
    """The largest relative error; of a density, that of its mean in units of the rms eigenvalue."""
    if question == "density":
        mean = float(np.dot(answer.nodes, answer.weights))
        rms = exact.frobenius / exact.n_params**0.5
        return abs(mean - exact.trace / exact.n_params) / rms
    if question == "trace":
        return abs(answer.values[0] - exact.trace) / abs(exact.trace)
    want = np.array(exact.layers) if question == "layers" else exact.largest[: len(answer.values)]
    got = np.array(answer.values)
    if question == "top 10":  # by magnitude or by value, as the method means it
        by_size = np.sort(got)[::-1] - np.sort(exact.top)[::-1]
        other = got - want
        diff = min(np.abs(by_size / want).max(), np.abs(other / want).max())
        return float(diff)
    return float(np.abs((got - want) / want).max())


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, a table for each question."""
    lines = [
        "# Peers, side by side",
        "",
        f"torch {torch.__version__}, one thread. G = CPU time over that of one forward and",
        "backward pass; memory = peak of tensors, over that of this pass. Error: the worst of all",
        "runs against scipy's eigsh in float64; of a density the error of its mean in units of the",
        "root mean square eigenvalue.",
    ]
    for question in QUESTIONS:
        lines += ["", f"## {question}", ""]
        lines += [
            "| network | method | worst error | certified | products | G | goal | s | memory |"
        ]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        lines += [_line(r) for r in rows if r["question"] == question]
    return "\n".join(lines) + "\n"


def _line(r: dict[str, Any]) -> str:
    head = f"| {r['case']} | {r['method']} | "
    if "G" not in r:
        return f"{head}fails: {r['failure']} | | | | | | |"
    goal = ""
    if r["goal_G"] is not None:
        goal = f"{r['goal_G']} {'met' if r['G'] <= r['goal_G'] else 'missed'}"
    products = "" if r["products"] != r["products"] else f"{r['products']:.1f}"
    error = "" if r["worst_error"] is None else f"{r['worst_error']:.1e}"
    return (
        f"{head}{error} | {'yes' if r['certified'] else 'no'} | {products} | "
        f"{r['G']} | {goal} | {r['seconds']} | {r['peak_memory'] or ''} |"
    )


if __name__ == "__main__":
    main()
