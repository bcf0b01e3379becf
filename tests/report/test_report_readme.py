"""The README's lines that read a log without any tool of ours run as they stand."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from homotopy_cli.runlog.reader import read_log

REPOSITORY = Path(__file__).parent.parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the lines leave closing to Python
def test_plain_lines_read_a_log_with_h5py_pandas_and_xarray(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    (code,) = [block for block in blocks if "xarray" in block]
    log = REPOSITORY / "sample_runs" / "quickstart" / "run.h5"
    shutil.copyfile(log, tmp_path / "run.h5")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    ours = read_log(log)
    np.testing.assert_array_equal(names["table"]["loss"], ours.steps["loss"])
    np.testing.assert_array_equal(names["table"]["lr"], ours.steps["lr"])
    layers = names["layers"]
    assert layers.dims == ("probe_step", "layer")
    assert layers.sel(layer="token").shape == (len(ours.probe_step),)
