"""A run in a process of its own: prints `ack STEP` whenever the log acknowledged a row.

python runlog_child.py PATH new|overwrite|resume:STEP UNTIL FOLD_EVERY [hold]
"""

import sys

from runlog_cases import finish, info, probe, step

from homotopy_cli.errors import LogError
from homotopy_cli.runlog.writer import RunWriter


def main() -> int:
    path, mode, until, fold_every, *rest = sys.argv[1:]
    kind, _, first = mode.partition(":")
    first = int(first or 0)
    if kind == "resume":
        writer = RunWriter.resume(path, step=first)
    else:
        writer = RunWriter.create(path, info(run_id=kind), overwrite=kind == "overwrite")
    print("open", flush=True)
    for i in range(first, int(until)):
        if i % 5 == 0:
            writer.append_probe(probe(i))
        writer.append_step(step(i))
        print("ack", i, flush=True)
        if i % int(fold_every) == int(fold_every) - 1:
            writer.fold()
    if rest == ["hold"]:
        print("holding", flush=True)
        sys.stdin.readline()
    finish(writer, int(until))
    print("closed", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LogError as error:
        print(error.message, file=sys.stderr)
        sys.exit(error.exit_code)
