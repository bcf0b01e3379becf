"""The accuracy curve: its file, and that the curves fall as theory says."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.accuracy import HEADER, curves, main, small_problem, trace_hutch_plus_plus

from homotopy_cli.curvature.exact import full_hessian
from homotopy_cli.linalg.hutchinson import trace
from homotopy_cli.linalg.operator import DenseOperator
from homotopy_cli.linalg.vectors import generator

ROOT = Path(__file__).parents[2]


def test_curves_fall_as_they_must():
    hessian = full_hessian(small_problem())
    rows = curves(0.5 * (hessian + hessian.T), products=(6, 24, 96), n_seeds=10)
    by = {(r.method, r.n_products): r for r in rows}
    assert len(rows) == 12
    assert by["lanczos", 96].worst_error < 1e-10 < by["lanczos", 6].median_error
    assert by["lanczos", 24].median_error < 1e-3 * by["power_iteration", 24].median_error + 1e-12
    assert by["hutch++", 96].median_error < by["hutchinson", 96].median_error
    ratio = by["hutchinson", 6].median_stated_error / by["hutchinson", 96].median_stated_error
    assert 2.0 < ratio < 8.0  # √16 = 4
    for row in rows:
        if row.method == "lanczos" and row.n_products == 96:
            assert row.worst_error <= row.median_stated_error + 1e-12


def test_hutch_plus_plus_beats_plain_probes_and_its_error_is_true():
    """Three large eigenvalues over a small bulk."""
    values = torch.cat([torch.tensor([80.0, 50.0, -40.0]), torch.linspace(-1, 2, 117)]).double()
    q = torch.linalg.qr(torch.randn(120, 120, dtype=torch.float64, generator=generator(5))).Q
    operator = DenseOperator((q * values) @ q.T)
    better = trace_hutch_plus_plus(operator, generator=generator(0), n_matvecs=45)
    plain = trace(operator, generator=generator(0), n_probes=45)
    assert better.stderr < plain.stderr / 3
    assert abs(better.value - values.sum().item()) < 4 * better.stderr
    assert better.n_probes == operator.n_matvecs - 45 == 45
    with pytest.raises(ValueError, match="at least 6"):
        trace_hutch_plus_plus(operator, generator=generator(0), n_matvecs=5)


def test_module_command_writes_the_file(tmp_path):
    out = tmp_path / "accuracy.csv"
    command = [sys.executable, "-m", "tests.benchmarks.accuracy", "--out", str(out)]
    done = subprocess.run(
        [*command, "--seeds", "2"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "635 parameters, 2 seeds" in done.stdout
    with out.open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == HEADER and len(table) == 44
    assert {row["method"] for row in table} == {
        "hutchinson",
        "hutch++",
        "power_iteration",
        "lanczos",
    }


def test_the_same_seeds_give_the_same_file(tmp_path):
    hessian = torch.diag(torch.linspace(0.1, 2.0, 40, dtype=torch.float64))
    assert curves(hessian, products=(6,), n_seeds=3) == curves(hessian, products=(6,), n_seeds=3)


def test_bad_options_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "no" / "x.csv")])
    assert "no folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "x.csv"), "--seeds", "0"])
    assert "--seeds must be at least 1" in capsys.readouterr().err
