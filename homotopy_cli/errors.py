"""Every error a user can cause: one line of what is wrong, one line of what to type next.

    HomotopyError            exit 2   usage or unusable input; nothing was written
    ├── RecipeError                   a YAML recipe, with file:line and key path
    ├── CheckpointError               a checkpoint file or folder
    ├── ProblemError                  a model, loss or batch that do not fit together
    │   └── NonFiniteError            NaN or infinity where a number must be
    ├── LogError                      an HDF5 log or its journal
    └── TrainingDiverged     exit 3   training stopped by itself; the log is intact

Programming mistakes stay TypeError and ValueError; an internal bug leaves with exit 70.
"""

import os
import shlex

INTERRUPTED = 130  # exit code after Ctrl-C: 128 + SIGINT, as shells have it


def typed(path: str | os.PathLike[str]) -> str:
    """`path` as a shell wants it typed: quoted where it holds a space or another sign."""
    text = os.fspath(path)
    plain = "".join("a" if c.isalnum() else c for c in text)  # shlex quotes every é
    return text if shlex.quote(plain) == plain else shlex.quote(text)


def first_line(error: BaseException, *, named: bool = False) -> str:
    """The first line of an error's message that says something, else the name of its class.

    Args:
        error: Any; half of what libraries raise has several lines, and some have none.
        named: Put the class's name before the message.
    """
    kind = type(error).__name__
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{kind}: {said}" if named and said else said or kind


class HomotopyError(Exception):
    """A mistake the user can correct.

    Args:
        message: What is wrong, where, with the offending value. One line.
        hint: The next thing to type or to change; one line, may be empty. It is a note on the
            exception, too, so that a traceback shows it.
        exit_code: The process's exit code when the command line reports it.
        completion: What the user's own command lacks, and a remark after it; the command line
            then prints that command, completed, for a hint.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        exit_code: int | None = None,
        completion: tuple[str, str] = ("", ""),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.completion = completion
        if hint:
            self.add_note(f"hint: {hint}")
        if exit_code is not None:
            self.exit_code = exit_code


class RecipeError(HomotopyError):
    """A recipe that cannot be used. `faults` holds every (message, hint), all found at once."""

    def __init__(
        self, message: str, *, hint: str = "", faults: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.faults = faults or ((message, hint),)


class CheckpointError(HomotopyError):
    """A checkpoint that cannot be read, or that does not fit the model."""


class ProblemError(HomotopyError):
    """A model, loss or batch that cannot be measured together."""


class NonFiniteError(ProblemError):
    """A loss, gradient or product holds NaN or infinity."""


class LogError(HomotopyError):
    """A log that cannot be read or written."""


class TrainingDiverged(HomotopyError):
    """The loss stopped being finite, or an abort rule fired; `step` is the offending step."""

    exit_code = 3

    def __init__(self, message: str, *, step: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.step = step


# What measuring somebody's model on somebody's batch may raise without a bug of ours.
MEASUREMENT_ERRORS = (HomotopyError, RuntimeError, ValueError, ArithmeticError)
