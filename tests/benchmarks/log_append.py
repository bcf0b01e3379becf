"""What the log costs a training step: the writer on realistic rows, beside real steps' seconds.

    python -m tests.benchmarks.log_append

Rows are those of a quickstart run: 11 numbers a step, a probe with 27 layers every 10 steps, a
spectrum every 100. The clock runs around the writer's calls only, folds and the close included.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from homotopy_cli.records import ProbeRecord, RunInfo, StepRecord
from homotopy_cli.runlog import schema
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.runlog.writer import RunWriter

REAL = Path(__file__).parents[2] / "sample_runs" / "quickstart" / "run.h5"
LAYERS = 27


def info() -> RunInfo:
    return RunInfo(
        run_id="bench",
        layers=tuple(f"blocks.{i}.linear" for i in range(LAYERS)),
        layer_numel=(4096,) * LAYERS,
        layer_kind=("Linear",) * LAYERS,
        recipe_source="",
        recipe_resolved={},
        environment={},
        argv=("bench",),
        seed=0,
        n_params=LAYERS * 4096,
    )


def seconds_of(n: int, pace: float) -> np.ndarray:
    """Seconds (n,) spent in the writer at each step; `pace` seconds of sleep between steps."""
    rng = np.random.default_rng(0)
    step_names = [column.name for column in schema.STEP_VALUES]
    probe_names = [column.name for column in schema.PROBE_VALUES]
    spent = np.zeros(n)
    with tempfile.TemporaryDirectory() as folder:
        writer = RunWriter.create(Path(folder) / "run.h5", info())
        for i in range(n):
            step = StepRecord(i, dict(zip(step_names, rng.random(len(step_names)), strict=True)))
            probe = None
            if i % 10 == 0:
                layers = {c.name: rng.random(LAYERS) for c in schema.LAYER_VALUES[:5]}
                spectrum = (rng.random(80), rng.random(80)) if i % 100 == 0 else None
                values = dict(zip(probe_names, rng.random(len(probe_names)), strict=True))
                probe = ProbeRecord(i, values, layers, spectrum)
            if pace:
                time.sleep(pace)
            began = time.perf_counter()
            if probe is not None:
                writer.append_probe(probe)
            writer.append_step(step)
            spent[i] = time.perf_counter() - began
        began = time.perf_counter()
        writer.close("finished")
        spent[-1] += time.perf_counter() - began
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--pace", type=float, default=0.02, help="seconds of a step's own work")
    arguments = parser.parse_args()
    real = float(np.median(read_log(REAL).steps["step_seconds"]))
    paces = {"as fast as it goes": 0.0, f"{arguments.pace:g} s apart": arguments.pace}
    for label, pace in paces.items():
        spent = seconds_of(arguments.steps, pace)
        print(
            f"{arguments.steps} steps, {label}: median {1e6 * np.median(spent):.0f} µs, "
            f"mean {1e6 * spent.mean():.0f} µs (folds and close included), "
            f"largest {1e3 * spent.max():.1f} ms; {100 * spent.mean() / real:.2f} % of the "
            f"quickstart's median step of {1e3 * real:.0f} ms"
        )


if __name__ == "__main__":
    main()
