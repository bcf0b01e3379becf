"""kill -9 at random moments: `python kill_harness.py KILLS SEED`, a process of its own.

Imports once, then forks: each child trains, the parent kills it at a random moment, opens the
log, resumes until the end, and compares weights and rows with an undisturbed run. Prints one
JSON line. The parent never computes a gradient, so the fork has no threads to lose.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch._dynamo  # every optimizer imports it at its first use; once here, not in each child
from training_runs import assert_same_rows, folder

from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.loop import train

STEPS = 60


def child(recipe: Path, out: Path, *, resume: bool) -> int:
    """Fork a training process; returns its id."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            code = train(load_recipe(recipe), out, resume=resume).exit_code
        finally:
            os._exit(code)
    return process


def finish(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main(kills: int, seed: int) -> dict:
    torch.set_num_threads(1)
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as base:
        recipe = folder(
            Path(base),
            model="build_with_state",
            optimizer="{name: adamw, lr: 3e-2}",
            scheduler="{name: homotopy, inner: {name: cosine, warmup: 3}}",
            steps=STEPS,
            eval_every=7,
            checkpoint_every=5,
        )
        whole = Path(base) / "whole" / "run.h5"
        began = time.perf_counter()
        assert finish(child(recipe, whole, resume=False)) == 0
        length = time.perf_counter() - began
        weights = torch.load(whole.with_suffix(".pt"), weights_only=True)["model"]
        log = read_log(whole)
        seen = {"killed": 0, "finished_first": 0, "before_the_log": 0, "resumed_from": []}
        for trial in range(kills):
            out = Path(base) / f"trial{trial}" / "run.h5"
            process = child(recipe, out, resume=False)
            time.sleep(moments.uniform(0, length))
            os.kill(process, signal.SIGKILL)
            if finish(process) == 0:
                seen["finished_first"] += 1
            else:
                seen["killed"] += 1
            if out.exists():
                read_log(out)
            else:
                seen["before_the_log"] += 1
            if out.with_suffix(".pt").exists():
                kept = torch.load(out.with_suffix(".pt"), weights_only=True)
                seen["resumed_from"].append(kept["step"])
            assert finish(child(recipe, out, resume=True)) == 0, f"trial {trial}"
            again = torch.load(out.with_suffix(".pt"), weights_only=True)["model"]
            assert all(torch.equal(again[k], v) for k, v in weights.items()), f"trial {trial}"
            assert_same_rows(read_log(out), log)
            assert not [p.name for p in out.parent.iterdir() if p.suffix in (".tmp", ".partial")]
    return seen


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
