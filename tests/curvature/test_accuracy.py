"""The accuracy curve: its file, and that the curves fall as theory says."""

import csv
import subprocess
import sys

import pytest
import torch

from homotopy_cli.curvature.accuracy import HEADER, curves, main, small_problem
from homotopy_cli.curvature.exact import full_hessian


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


def test_module_command_writes_the_file(tmp_path):
    out = tmp_path / "accuracy.csv"
    command = [sys.executable, "-m", "homotopy_cli.curvature.accuracy", "--out", str(out)]
    done = subprocess.run([*command, "--seeds", "2"], capture_output=True, text=True, check=False)
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
