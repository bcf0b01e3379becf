"""One table: what the writer writes, what others read, what the documentation shows."""

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from runlog_cases import LAYERS, fill, finish, info

from homotopy_cli.records import EvalRecord, EventRecord, ProbeRecord, StepRecord
from homotopy_cli.runlog import schema
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.runlog.writer import RunWriter


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "run.h5"
    writer = RunWriter.create(path, info())
    fill(writer, range(20))
    finish(writer, 20)
    return path


def test_every_column_says_its_unit_and_meaning():
    for column in schema.COLUMNS:
        assert column.unit
        assert len(column.description) > 5
    assert len(schema.BY_PATH) == len(schema.COLUMNS)


def test_every_dataset_is_in_the_table_and_carries_its_attributes(path):
    seen = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: seen.update({name: item}) if isinstance(item, h5py.Dataset) else None
        )
        for name, dataset in seen.items():
            column = schema.BY_PATH[name]
            assert dataset.attrs["units"] == column.unit
            assert dataset.attrs["description"] == column.description
            assert dataset.ndim == len(column.shape)
            if column.dtype != "str":
                assert dataset.dtype == np.dtype("<" + column.dtype)
            else:
                assert h5py.check_string_dtype(dataset.dtype).encoding == "utf-8"
        required = {column.path for column in schema.COLUMNS} - {
            column.path
            for table in (schema.STEP_VALUES, schema.PROBE_VALUES, schema.EVAL_VALUES)
            for column in table
            if not column.always
        }
        required -= {column.path for column in schema.LAYER_VALUES}
        assert required <= set(seen)


def test_what_was_written_is_what_is_read(path):
    log = read_log(path)
    steps = np.arange(20)
    np.testing.assert_array_equal(log.step, steps)
    np.testing.assert_array_equal(log.steps["loss"], 1.0 / (steps + 1))
    np.testing.assert_array_equal(log.steps["grad_norm"], 0.5 * steps)
    np.testing.assert_array_equal(log.steps["lr_reason"], steps % 3)
    assert np.isnan(log.steps["update_norm"]).all()
    assert "clip_coef" not in log.steps
    assert log.column("clip_coef") is None
    np.testing.assert_array_equal(log.step_of("kappa"), [0, 5, 10, 15])
    np.testing.assert_array_equal(log.column("kappa"), [0, 10, 20, 30])
    np.testing.assert_array_equal(log.probes["converged"], 1.0)
    np.testing.assert_array_equal(
        log.layer_values["layer_kappa"], [[i, np.nan, 3.0] for i in (0, 5, 10, 15)]
    )
    assert log.layer_values["layer_kappa"].dtype == np.float32
    assert log.layers == LAYERS
    assert log.layer_kind == ("Embedding", "Linear", "Linear")
    np.testing.assert_array_equal(log.layer_numel, [12, 30, 8])
    np.testing.assert_array_equal(log.eval_step, [20])
    np.testing.assert_array_equal(log.evals["eval_loss"], [0.25])
    assert [s.step for s in log.spectra] == [0, 5, 10, 15]
    np.testing.assert_array_equal(log.spectra[1].values, [5, 6, 7, 8])
    np.testing.assert_array_equal(log.spectra[1].weights, 0.25)
    assert (log.spectra[1].layer, log.spectra[1].kind) == (-1, "density")
    assert log.events == (EventRecord(20, "info", "DONE", "as planned"),)
    assert log.provenance == {
        "recipe_source": "model: {name: gpt}  # exact text\n",
        "recipe_resolved": {"model": {"name": "gpt"}, "clip": {"max_norm": "inf"}},
        "environment": {"python": "3.11"},
        "argv": ("homotopy", "train"),
        "seed": 7,
        "n_params": 50,
    }
    assert log.missing == log.notes == ()
    assert (log.status, log.closed) == ("finished", True)
    assert log.measured("loss")
    assert not log.measured("update_norm")


def test_unknown_names_are_programming_mistakes(tmp_path):
    with RunWriter.create(tmp_path / "run.h5", info()) as writer:
        with pytest.raises(ValueError, match=r"'los' is not a column of the log; known: loss, lr"):
            writer.append_step(StepRecord(0, {"los": 1.0}))
        with pytest.raises(ValueError, match="'kapa' is not a column"):
            writer.append_probe(ProbeRecord(0, {"kapa": 1.0}))
        with pytest.raises(ValueError, match="'layer_kapa' is not a per-layer column"):
            writer.append_probe(ProbeRecord(0, {}, {"layer_kapa": np.zeros(3)}))
        with pytest.raises(ValueError, match=r"layer_kappa: shape \(2,\), expected \(3,\)"):
            writer.append_probe(ProbeRecord(0, {}, {"layer_kappa": np.zeros(2)}))
        with pytest.raises(ValueError, match="must be 1-D"):
            writer.append_probe(ProbeRecord(0, {}, spectrum=(np.zeros(3), np.zeros(2))))
        with pytest.raises(ValueError, match="'accuracy' is not a column"):
            writer.append_eval(EvalRecord(0, {"accuracy": 1.0}))
        with pytest.raises(ValueError, match="level 'fatal'"):
            writer.append_event(EventRecord(0, "fatal", "X", ""))
        writer.append_step(StepRecord(4, {"loss": 1.0}))
        with pytest.raises(ValueError, match="step 4 after step 4"):
            writer.append_step(StepRecord(4, {"loss": 1.0}))
    log = read_log(tmp_path / "run.h5")
    np.testing.assert_array_equal(log.step, [4])
    assert len(log.probe_step) == 0
    with pytest.raises(ValueError, match="the log is closed"):
        writer.append_step(StepRecord(5, {}))
    with pytest.raises(KeyError, match="no column 'los'"):
        log.column("los")


def test_xarray_reads_it(path):
    with xr.open_dataset(path, engine="h5netcdf") as data:
        assert data.sizes == {"step": 20, "probe_step": 4, "eval_step": 1, "layer": 3}
        assert data.loss.sel(step=4).item() == 0.2
        assert data.layer_kappa.sel(layer="head", probe_step=10).item() == 3.0
        assert data.kappa.attrs["units"] == "1/loss"
        assert data.attrs["format"] == "homotopy-run"


def test_xarray_reads_a_code_that_was_not_recorded_as_nan(tmp_path):
    with RunWriter.create(tmp_path / "run.h5", info()) as writer:
        writer.append_step(StepRecord(0, {"lr_reason": 2}))
        writer.append_step(StepRecord(1, {}))
    with xr.open_dataset(tmp_path / "run.h5", engine="h5netcdf") as data:
        np.testing.assert_array_equal(data.lr_reason.values, [2, np.nan])
    with h5py.File(tmp_path / "run.h5", "r") as file:
        assert file["lr_reason"][:].tolist() == [2, -1]


def test_xarray_reads_a_run_without_rows_and_without_layers(tmp_path):
    bare = info(layers=(), layer_numel=(), layer_kind=())
    RunWriter.create(tmp_path / "run.h5", bare).close("interrupted")
    with xr.open_dataset(tmp_path / "run.h5", engine="h5netcdf") as data:
        assert data.sizes["step"] == 0
    log = read_log(tmp_path / "run.h5")
    assert (len(log.step), log.layers, log.status) == (0, (), "interrupted")


def test_h5py_and_pandas_read_it_in_three_lines(path):
    with h5py.File(path, "r") as file:
        frame = pd.DataFrame({name: file[name][:] for name in ("step", "loss", "lr")})
    assert frame.set_index("step").loss[4] == 0.2


def test_the_same_run_gives_the_same_bytes(tmp_path):
    images = []
    for name in ("a", "b"):
        path = tmp_path / name / "run.h5"
        writer = RunWriter.create(path, info())
        fill(writer, range(30))
        if name == "b":
            writer.fold()  # how often it was folded leaves no trace
        finish(writer, 30)
        images.append(path.read_bytes())
    assert images[0] == images[1]


def test_large_columns_are_compressed_at_the_end(tmp_path):
    path = tmp_path / "run.h5"
    with RunWriter.create(path, info()) as writer:
        for i in range(5000):
            writer.append_step(StepRecord(i, {"loss": i % 7, "lr": 1e-3}))
        writer.fold()
        with h5py.File(path, "r") as file:
            assert file["loss"].compression is None
    with h5py.File(path, "r") as file:
        assert file["loss"].compression == "gzip"
        assert file["loss"].id.get_storage_size() < 5000
    np.testing.assert_array_equal(read_log(path).steps["loss"], np.arange(5000) % 7)


def test_awkward_text_survives_or_is_made_safe(tmp_path):
    awkward = info(
        layers=("λ.weight", "a\0b", "c\udc80"),
        argv=("homotopy", "--hub-token", "s3cret", "--set", "api_key=s3cret", "ftp://u:s3cret@x"),
        recipe_source="# ünï\r\n",
    )
    path = tmp_path / "run.h5"
    writer = RunWriter.create(path, awkward)
    live = read_log(path)
    writer.close()
    log = read_log(path)
    assert log.layers[0] == "λ.weight"
    assert log.layers[1] == "a\N{REPLACEMENT CHARACTER}b"
    assert log.provenance["recipe_source"] == "# ünï\r\n"
    assert log.provenance["argv"] == live.provenance["argv"]
    assert log.provenance["argv"] == (
        "homotopy", "--hub-token", "***", "--set", "api_key=***", "ftp://u:***@x",
    )  # fmt: skip
    assert b"s3cret" not in path.read_bytes()


def test_facts_that_do_not_fit_are_programming_mistakes(tmp_path):
    with pytest.raises(ValueError, match="seed 9223372036854775808 does not fit 64 bits"):
        RunWriter.create(tmp_path / "run.h5", info(seed=2**63))
    with pytest.raises(ValueError, match="layers, layer_numel and layer_kind differ in length"):
        RunWriter.create(tmp_path / "run.h5", info(layer_numel=()))
    with pytest.raises(ValueError, match="status 'done'"):
        RunWriter.create(tmp_path / "run.h5", info()).close("done")
