"""What a library's error says, in one line."""

import copy
import pickle
import traceback

import pytest

from homotopy_cli.cli.app import run
from homotopy_cli.errors import HomotopyError, ProblemError, first_line


@pytest.mark.parametrize(
    ("error", "said", "named"),
    [
        (RuntimeError(), "RuntimeError", "RuntimeError"),
        (RuntimeError("\n"), "RuntimeError", "RuntimeError"),
        (RuntimeError("\n  a\nb"), "a", "RuntimeError: a"),
        (KeyError("k"), "'k'", "KeyError: 'k'"),
    ],
)
def test_the_first_line_that_says_something(error, said, named):
    assert first_line(error) == said
    assert first_line(error, named=True) == named


def test_a_hint_is_a_note_that_a_traceback_shows():
    error = ProblemError("it does not fit", hint="turn it round")
    assert traceback.format_exception_only(error)[-2:] == [
        "homotopy_cli.errors.ProblemError: it does not fit\n",
        "hint: turn it round\n",
    ]
    assert str(error) == error.message == "it does not fit"
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (again.hint, again.__notes__) == ("turn it round", ["hint: turn it round"])
    assert not hasattr(HomotopyError("without"), "__notes__")


def test_the_command_line_prints_a_hint_once(tmp_path, capsys):
    argv = ["report", str(tmp_path / "none.h5")]
    assert run(argv) == 2
    told = capsys.readouterr().err
    assert [line[:5] for line in told.splitlines()] == ["error", "hint:"]
    with pytest.raises(HomotopyError) as caught:
        run([*argv, "--debug"])  # whose traceback shows the note
    assert len(caught.value.__notes__) == 1
