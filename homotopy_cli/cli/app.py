"""The `homotopy` process: verbs, exit codes, and errors as two lines on stderr."""

import os
import sys
import tempfile
import traceback
from typing import Annotated

import typer

from homotopy_cli._version import __version__
from homotopy_cli.cli.debug import Debug, split
from homotopy_cli.cli.probe import probe
from homotopy_cli.cli.report import report
from homotopy_cli.cli.train import train
from homotopy_cli.errors import INTERRUPTED, HomotopyError, RecipeError, typed

INTERNAL_BUG = 70

app = typer.Typer(
    name="homotopy",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Measure the geometry of training: Hessian spectra, curvature, the edge of stability.",
    epilog="Start with `homotopy train`: it needs no file and no download.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"homotopy {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Measure the geometry of training: Hessian spectra, curvature, the edge of stability."""


# A line each: the listing cuts longer ones off.
app.command("probe", short_help="Measure the curvature of a checkpoint.")(probe)
app.command("train", short_help="Train a recipe, measuring on the way.")(train)
app.command("report", short_help="Turn logs into one page; stop a bad run in CI.")(report)


def _say(kind: str, text: str) -> None:
    if text:
        print(f"{kind + ':':<6} {one_line(text)}", file=sys.stderr)


def one_line(text: str) -> str:
    """`text` on one line, without control characters that a terminal would obey."""
    flat = " ".join(str(text).split())
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in flat)


def _report_error(error: HomotopyError, argv: list[str]) -> int:
    added, remark = error.completion
    own = " ".join(["homotopy", *map(typed, argv), added])
    hint = f"{own}   {remark}" if added else error.hint
    faults = error.faults if isinstance(error, RecipeError) else ((error.message, hint),)
    for message, hint in faults:
        _say("error", message)
        _say("hint", hint)
    return error.exit_code


def _report_bug(error: BaseException) -> int:
    with tempfile.NamedTemporaryFile(
        "w", prefix="homotopy-bug-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write(f"homotopy {__version__}\nargv: {sys.argv[1:]}\n\n")
        file.write("".join(traceback.format_exception(error)))
    _say("error", f"internal bug: {type(error).__name__}: {error}")
    _say("hint", f"the traceback is in {file.name}; run again with --debug to see it here")
    return INTERNAL_BUG


def run(argv: list[str]) -> int:
    """Run one command and return its exit code; never raises but under `--debug`."""
    argv, debug = split(argv)
    try:
        code = app(argv or ["--help"], prog_name="homotopy", standalone_mode=False)
        return int(code or 0) if argv else 2  # no command is a usage error, said by the help
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _say("error", "interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our stdout went away (`| head`): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except HomotopyError as error:
        if debug:
            raise
        return _report_error(error, argv)
    except Exception as error:
        if hasattr(error, "format_message"):  # the command-line parser's own usage errors
            _say("error", error.format_message())
            verb = argv[0] + " " if argv and argv[0] in ("probe", "train", "report") else ""
            _say("hint", f"homotopy {verb}--help")
            return 2
        if debug:
            raise
        return _report_bug(error)


def main() -> None:
    """Entry point of the `homotopy` script and of `python -m homotopy_cli`."""
    encoding = getattr(sys.stdout, "encoding", None) or ""  # a replaced stream may have none
    if hasattr(sys.stdout, "reconfigure") and encoding.lower().replace("-", "") != "utf8":
        sys.stdout.reconfigure(errors="replace")  # a sign that it lacks must not end a run
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
