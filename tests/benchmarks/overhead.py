"""What probing costs in a training run: two runs of one recipe, interleaved, with and without it.

    python -m tests.benchmarks.overhead recipes/gpt_wikitext2.yaml --set data.path=$PWD/valid.txt

Both runs see the same batches; blocks of steps alternate in random order in one process, so that
whatever else the machine does falls on both. CPU time, since wall time on a shared machine says
little; on a GPU wall time, each block ending when the device has done its work. The plain run has
the same schedule and no curvature at all.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import torch

from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.training.build import build_run
from homotopy_cli.training.step import optimizer_step


def _clock(device: torch.device) -> float:
    """Seconds: of this process's CPU time, or of wall time once a GPU has caught up."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    """Print the overhead of each block pair's median and of the whole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--profile")
    parser.add_argument("--block", type=int, default=50, help="steps of a block")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plain = ("scheduler=cosine", "scheduler.warmup=0.1", "curvature.freq=0")
    arms = {
        "probed": build_run(load_recipe(options.recipe, options.sets, profile=options.profile)),
        "plain": build_run(
            load_recipe(options.recipe, (*options.sets, *plain), profile=options.profile)
        ),
    }
    steps = arms["probed"].recipe.steps
    blocks: list[dict[str, float]] = []
    order = random.Random(0)
    for begin in range(0, steps, options.block):
        spent = {}
        for name in order.sample(list(arms), 2):
            started = _clock(arms[name].device)
            for step in range(begin, min(begin + options.block, steps)):
                outcome = optimizer_step(arms[name], step)
                if outcome.fault:
                    raise SystemExit(f"{name}: {outcome.fault} at step {step}")
            spent[name] = _clock(arms[name].device) - started
        blocks.append(spent)
    shares = [b["probed"] / b["plain"] - 1.0 for b in blocks]
    total = sum(b["probed"] for b in blocks) / sum(b["plain"] for b in blocks) - 1.0
    guard = arms["probed"].scheduler
    found = {
        "steps": steps,
        "blocks": len(blocks),
        "overhead_total": total,
        "overhead_median_block": statistics.median(shares),
        "overhead_after_first_tenth": statistics.median(shares[len(shares) // 10 :]),
        "probes": guard.n_probes,
        "booked_share": guard.overhead,
        "seconds_plain": sum(b["plain"] for b in blocks),
    }
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found | {"pairs": blocks}, indent=1) + "\n")


if __name__ == "__main__":
    main()
