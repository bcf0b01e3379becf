"""`homotopy` alone, and what its help lists."""

import pytest

from homotopy_cli.cli.app import run


@pytest.mark.parametrize("argv", [[], ["--debug"]])
def test_homotopy_alone_shows_its_help_and_counts_as_wrong_usage(argv, capsys):
    assert run(argv) == 2
    said = capsys.readouterr()
    assert said.out.startswith("Usage: homotopy [OPTIONS] COMMAND") and not said.err


def test_each_command_is_listed_with_a_whole_line(capsys):
    assert run(["--help"]) == 0
    listed = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.split()[:1] in (["probe"], ["train"], ["report"])
    ]
    assert len(listed) == 3 and all(line.endswith(".") and "..." not in line for line in listed)
