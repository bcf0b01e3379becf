"""A short form of the kill harness; `kill_harness.py 50 1` is the long one."""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_killed_runs_resume_to_the_same_weights_and_rows():
    package = HERE.parent.parent
    paths = os.pathsep.join([str(package), str(HERE)])
    done = subprocess.run(
        [sys.executable, str(HERE / "kill_harness.py"), "6", "7"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["killed"] + seen["finished_first"] == 6 and seen["killed"] >= 2
