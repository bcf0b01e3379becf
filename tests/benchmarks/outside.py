"""What a training step costs beside forward, backward and optimizer step.

    python -m tests.benchmarks.outside recipes/gpt_wikitext2.yaml --set data.path=$PWD/valid.txt

Runs the recipe's own training, log and checkpoint included, under a fixed schedule without probes
or evaluations, and takes the CPU time inside the two calls that train from that of the whole.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.training.loop import train
from homotopy_cli.training.observer import Silent
from homotopy_cli.training.ranks import Solo

FIXED = (
    "scheduler={name: cosine, warmup: 0.1}",
    "curvature.freq=0",
    "eval_every=0",
    "eval_batches=1",
)


class Clock(Silent):
    """CPU seconds of the loop: building model and data is no part of a step."""

    def start(self, total: int, done: int) -> None:
        """The loop begins."""
        self.seconds = -time.process_time()

    def stop(self) -> None:
        """The last checkpoint is written."""
        self.seconds += time.process_time()


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--profile")
    options = parser.parse_args()
    torch.set_num_threads(1)
    spent = {"passes": 0.0, "optimizer": 0.0}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.process_time() - began

        return call

    Solo.backward = timed("passes", Solo.backward)  # type: ignore[method-assign]
    original = torch.optim.AdamW.step
    torch.optim.AdamW.step = timed("optimizer", original)  # type: ignore[method-assign]
    loaded = load_recipe(options.recipe, (*options.sets, *FIXED), profile=options.profile)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        result = train(loaded, Path(folder) / "run.h5", observer=clock)
    whole, inside = clock.seconds, sum(spent.values())
    found = {
        "steps": result.step,
        "cpu_seconds": round(whole, 2),
        "passes": round(spent["passes"], 2),
        "optimizer": round(spent["optimizer"], 2),
        "outside_share": round(1.0 - inside / whole, 4),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
