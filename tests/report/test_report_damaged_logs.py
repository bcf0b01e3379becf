"""A part of log_fuzz.py: every kind of damage a few times."""

import log_fuzz
import pytest


@pytest.mark.parametrize("block", range(3))
def test_a_damaged_log_is_a_page_or_one_error(block):
    found = log_fuzz.fuzz(range(14 * block, 14 * (block + 1)))
    assert sum(found.values()) == 14
    assert {name.split(":")[0] for name in found} == {m.__name__ for m in log_fuzz.MUTATIONS}
    assert {name.split(": ")[1] for name in found} == {"page", "refused"}


def test_the_undamaged_log_is_a_page(tmp_path):
    path = tmp_path / "run.h5"
    path.write_bytes(log_fuzz.ORIGINAL.read_bytes())
    assert log_fuzz.verdict_on(path) == "page"
