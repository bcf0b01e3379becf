"""Student's t against tables and closed forms."""

import math

import pytest

from homotopy_cli.linalg.student import covered, standard_errors


@pytest.mark.parametrize(
    ("share", "dof", "wanted"),
    [
        (0.95, 1, 12.7062),
        (0.95, 3, 3.18245),
        (0.95, 10, 2.22814),
        (0.999, 3, 12.9240),
        (0.999, 2, 31.5991),
    ],
)
def test_quantiles_of_the_tables(share, dof, wanted):
    assert standard_errors(share, dof) == pytest.approx(wanted, rel=1e-4)
    assert covered(standard_errors(share, dof), dof) == pytest.approx(share, rel=1e-12)


def test_many_degrees_of_freedom_are_normal():
    assert covered(2.0, 4000) == pytest.approx(math.erf(2.0 / math.sqrt(2.0)), abs=1e-4)
    assert covered(1.0, 1) == pytest.approx(0.5)
