"""Help and reports must not pay for torch: each runs in a fresh interpreter."""

import subprocess
import sys

import pytest


def run_and_list_modules(code: str) -> set[str]:
    script = code + "\nimport sys; print('MODULES', *sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("MODULES", 1)[1].split())


@pytest.mark.parametrize("verb", [[], ["probe"], ["train"], ["report"]])
def test_help_does_not_import_torch(verb):
    argv = [*verb, "--help"]
    modules = run_and_list_modules(f"from homotopy_cli.cli.app import run; run({argv!r})")
    assert not modules & {"torch", "plotly", "h5py"}


def test_reading_a_log_does_not_import_torch():
    modules = run_and_list_modules("from homotopy_cli import read_log, load_recipe, HomotopyError")
    assert "torch" not in modules


def test_the_report_layer_does_not_import_torch():
    modules = run_and_list_modules("import homotopy_cli.report.page, homotopy_cli.report.gates")
    assert "torch" not in modules
