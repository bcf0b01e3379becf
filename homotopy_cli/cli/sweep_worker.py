"""A process that runs one `homotopy train` after another, so that a sweep starts torch once a job.

The parent writes one JSON list of arguments per line, the child answers each with one JSON object:
exit code, stdout, stderr. A run in a worker is the run of a process of its own: `train` seeds
everything that it draws from, and the number of threads is set back before each.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ending:
    """How a run ended."""

    code: int  # exit code as in errors.py; negative: the signal that ended the process
    out: str
    err: str


class Worker:
    """The parent's end of one worker process; it starts with the first run."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, arguments: Sequence[str]) -> Ending:
        """Run `homotopy ARGUMENTS`; a worker that dies is an ending too, and the next run's is new.

        Blocks until the run has ended.
        """
        if self._process is None:
            # A session of its own: Ctrl-C reaches the run once, through interrupt().
            self._process = subprocess.Popen(
                [sys.executable, "-m", "homotopy_cli.cli.sweep_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                start_new_session=True,
                env={**os.environ, "NO_COLOR": "1"},
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None  # both are pipes
        answer = ""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(list(arguments)) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        if answer:
            return Ending(**json.loads(answer))
        self._process = None
        process.stdin.close()
        process.stdout.close()
        return Ending(process.wait(), "", "the process ended without an answer")

    def interrupt(self) -> None:
        """Let the run in hand finish its step and save."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """End the process, once its run has ended."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


def serve() -> None:
    """The child's end: run what stdin asks for until it closes."""
    import torch

    from homotopy_cli.cli.app import run

    threads = torch.get_num_threads()
    answers = sys.stdout
    with contextlib.suppress(KeyboardInterrupt):  # between two runs nothing is lost
        for line in sys.stdin:
            arguments = json.loads(line)
            sys.argv = ["homotopy", *arguments]  # what the log keeps as the command
            torch.set_num_threads(threads)
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run(arguments)
            ending = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
            print(json.dumps(ending), file=answers, flush=True)


if __name__ == "__main__":
    serve()
