"""What a library's error says, in one line."""

import pytest

from homotopy_cli.errors import first_line


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
