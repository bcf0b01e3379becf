"""Logs by others: short, damaged, half-written, hostile. One line of reason, one of advice."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from runlog_cases import fill, foreign_log, info

from homotopy_cli.errors import LogError
from homotopy_cli.runlog.reader import RunLog, read_log
from homotopy_cli.runlog.writer import RunWriter


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.h5"


def refusal(path) -> LogError:
    with pytest.raises(LogError) as caught:
        read_log(path)
    error = caught.value
    assert error.exit_code == 2
    assert "\n" not in error.message + error.hint
    assert error.hint
    assert error.message.startswith(f"{path}: ")
    return error


def told(path) -> str:
    return refusal(path).message.removeprefix(f"{path}: ")


def edit(path, change) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def test_a_plain_log_reads_without_notes(path):
    foreign_log(path, 10)
    log = read_log(path)
    np.testing.assert_array_equal(log.step, np.arange(10))
    assert set(log.steps) == {"loss", "lr", "grad_norm", "wall_time"}
    assert set(log.probes) == {"kappa"}
    assert log.layer_values["layer_kappa"].shape == (10, 2)
    np.testing.assert_array_equal(log.layer_numel, [-1, -1])
    assert log.provenance == {}
    assert log.missing == log.notes == ()


def test_no_rows_is_a_log_too(path):
    foreign_log(path, 0)
    log = read_log(path)
    assert len(log.step) == len(log.probe_step) == 0
    assert log.notes == ()


def test_non_finite_values_are_kept(path):
    foreign_log(path, 10)

    def change(file):
        file["loss"][4:] = np.nan
        file["kappa"][2:4] = np.inf, -np.inf

    edit(path, change)
    log = read_log(path)
    assert np.isnan(log.steps["loss"]).sum() == 6
    np.testing.assert_array_equal(log.probes["kappa"][2:4], [np.inf, -np.inf])


def test_missing_columns_are_named_not_invented(path):
    foreign_log(path, 30, leave_out=("kappa", "lr"))
    log = read_log(path)
    assert log.missing == ("lr", "kappa")
    assert log.column("kappa") is None
    assert "lr" not in log.steps


def test_a_truncated_file_says_both_sizes(path):
    foreign_log(path, 1000)
    whole = path.stat().st_size
    os.truncate(path, whole * 6 // 10)
    assert told(path) == (
        f"truncated ({whole * 6 // 10} bytes there, {whole} bytes stored in its header)"
    )


def test_a_file_that_was_never_flushed_says_so(path):
    foreign_log(path, 10)
    whole = path.stat().st_size
    os.truncate(path, 96)
    assert told(path) == (
        f"never completed (96 bytes there, {whole} stored in its header): "
        "its writer was killed before the first flush"
    )


def test_an_empty_file_says_so(path):
    path.write_bytes(b"")
    assert told(path).startswith("empty file (0 bytes)")


def test_a_file_of_another_kind_says_so(path):
    path.write_text("step,loss,kappa\n0,1.0,2.0")
    assert told(path) == "not an HDF5 file (it starts with b'step,loss,ka')"


def test_nothing_and_folders_and_pipes_say_so(path, tmp_path):
    assert told(path) == "no such log"
    path.mkdir()
    assert told(path) == "is a folder, not a log"
    assert refusal(path).hint == "no log lies in it; homotopy train writes run.h5"
    (path / "a").mkdir()
    (path / "a" / "run.h5").touch()
    assert refusal(path).hint == f"try {path}/a/run.h5"
    (path / "b.h5").touch()
    assert refusal(path).hint == f"try {path}/b.h5"
    os.mkfifo(tmp_path / "pipe")
    assert told(tmp_path / "pipe") == "is not a regular file"


def test_a_path_is_named_as_it_was_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name, words in (("run.h5", "no such log"), ("folder", "is a folder, not a log")):
        assert refusal(name).message == f"{name}: {words}"
    (tmp_path / "folder" / "b.h5").touch()
    assert refusal("folder").hint == "try folder/b.h5"


def test_a_newer_major_version_is_refused_with_the_way_out(path):
    foreign_log(path, schema_version="2.0")
    assert told(path) == "written with log schema 2.0; this version reads up to 1.x"
    assert refusal(path).hint == "pip install --upgrade homotopy-cli"


@pytest.mark.parametrize(
    ("version", "note"),
    [
        ("1.7", "written with log schema 1.7: fields newer than 1.0 are ignored"),
        ("one", "schema version 'one' not understood: read as 1.0"),
    ],
)
def test_other_versions_read_with_a_note(path, version, note):
    foreign_log(path, schema_version=version)
    edit(path, lambda file: file.create_dataset("new_in_1_7", data=np.ones(10)))
    log = read_log(path)
    assert log.notes == (note,)
    assert len(log.step) == 10


def test_other_hdf5_files_are_not_runs(path):
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = 1, 2
    assert told(path) == (
        "not a homotopy run: no attribute 'format' and no dataset 'step'; found x, y"
    )
    foreign_log(path, format="keras")
    assert told(path) == "format is 'keras', not 'homotopy-run'"
    foreign_log(path, leave_out=("step",))
    assert told(path).startswith("no usable dataset 'step'; found attempt, grad_norm, kappa")


def test_columns_of_unequal_length_are_cut_to_the_shortest(path):
    foreign_log(path, 10)
    edit(path, lambda file: (file["loss"].resize((9,)), file["layer_kappa"].resize((7, 2))))
    log = read_log(path)
    assert len(log.step) == len(log.steps["lr"]) == 9
    assert len(log.probe_step) == len(log.probes["kappa"]) == len(log.layer_values["layer_kappa"])
    assert log.notes == (
        "columns of /step differ in length (9 to 10): cut to 9 rows",
        "per-layer columns differ in length: cut to 7 probes",
    )


def test_an_empty_column_does_not_empty_the_log(path):
    foreign_log(path, 10)
    edit(path, lambda file: file["lr"].resize((0,)))
    log = read_log(path)
    assert len(log.step) == 10
    assert log.missing == ("lr",)
    assert log.notes == ("/lr ignored: empty, but /step has rows",)


def test_columns_of_a_wrong_type_are_ignored_with_a_note(path):
    foreign_log(path, 3)

    def change(file):
        for name, values in {
            "lr": np.array(["1e-3"] * 3, dtype=object),
            "kappa": np.ones((3, 2)),
            "loss": np.ones(3, "c16"),
            "layer_kappa": np.ones((3, 5), "f4"),
        }.items():
            del file[name]
            file[name] = values

    edit(path, change)
    log = read_log(path)
    assert set(log.steps) == {"grad_norm", "wall_time"}
    assert log.layer_values == {}
    assert log.missing == ("loss", "lr", "kappa")
    assert log.notes == (
        "/loss ignored: dtype complex128, shape (3,) do not fit",
        "/lr ignored: dtype object, shape (3,) do not fit",
        "/kappa ignored: dtype float64, shape (3, 2) do not fit",
        "/layer_kappa ignored: 5 columns, 2 layers",
    )


def test_absent_axes_are_guessed_and_said(path):
    foreign_log(path, 6, leave_out=("probe_step", "layer", "attempt"))
    log = read_log(path)
    np.testing.assert_array_equal(log.probe_step, np.arange(6))
    assert log.layers == ("layer 0", "layer 1")
    assert log.notes == (
        "no /probe_step: probe columns are taken to follow /step",
        "no /layer: layers are numbered",
    )


def test_spectra_that_do_not_fit_together_are_ignored(path):
    foreign_log(path, 3)

    def change(file):
        group = file.create_group("spectra")
        group["values"] = group["weight"] = np.ones(4, "f4")
        group["offset"] = [0, 2, 9]
        group["spectrum_step"] = group["spectrum_layer"] = group["kind"] = [0, 1]

    edit(path, change)
    log = read_log(path)
    assert log.spectra == ()
    assert log.notes == ("/spectra ignored: its parts do not fit together",)


def test_values_in_another_file_are_refused(path, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"passwords" * 9)
    foreign_log(path, 3, leave_out=("loss",))
    edit(
        path,
        lambda file: file.create_dataset(
            "loss", shape=(3,), dtype="f8", external=[(str(secret), 0, 24)]
        ),
    )
    assert told(path) == "refused: /loss keeps its values in another file (external storage)"
    assert "do not trust" in refusal(path).hint


def test_links_elsewhere_are_refused(path, tmp_path):
    foreign_log(tmp_path / "other.h5", 3)
    foreign_log(path, 3, leave_out=("loss",))
    edit(path, lambda file: file.__setitem__("loss", h5py.ExternalLink("other.h5", "/loss")))
    assert told(path) == "refused: /loss is a link to somewhere else"
    edit(path, lambda file: file.__delitem__("loss"))
    edit(path, lambda file: file.__setitem__("loss", h5py.SoftLink("/kappa")))
    assert told(path) == "refused: /loss is a link to somewhere else"
    edit(path, lambda file: file.__delitem__("loss"))
    edit(path, lambda file: file.__setitem__("spectra", h5py.ExternalLink("other.h5", "/")))
    assert told(path) == "refused: /spectra/spectrum_step is a link to somewhere else"


def test_virtual_datasets_are_refused(path, tmp_path):
    foreign_log(tmp_path / "other.h5", 3)
    foreign_log(path, 3, leave_out=("loss",))
    layout = h5py.VirtualLayout(shape=(3,), dtype="f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "loss", shape=(3,))
    edit(path, lambda file: file.create_virtual_dataset("loss", layout))
    assert told(path) == "refused: /loss is a virtual dataset, which reads other files"


def test_absurd_sizes_are_refused_before_memory_is_taken(path):
    foreign_log(path, 3, leave_out=("loss",))
    edit(
        path,
        lambda file: file.create_dataset("loss", shape=(10**12,), dtype="f8", chunks=(1024,)),
    )
    assert told(path) == "refused: /loss declares 8000000000000 bytes and stores 0"
    edit(path, lambda file: file.__delitem__("loss"))
    edit(path, lambda file: file.create_dataset("loss", shape=(10**8,), dtype="f8", chunks=(1024,)))
    assert told(path) == "refused: /loss declares 800000000 bytes and stores 0"


def test_filter_plugins_are_refused(path):
    foreign_log(path, 3, leave_out=("loss",))

    def change(file):
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((3,))
        # optional, so that creating it does not need the plugin
        plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (1,))
        space = h5py.h5s.create_simple((3,))
        h5py.h5d.create(file.id, b"loss", h5py.h5t.IEEE_F64LE, space, plist)

    edit(path, change)
    assert told(path) == "refused: /loss needs filter plugins [32015]"


def test_a_damaged_inside_is_one_line(path):
    foreign_log(path, 300)
    data = bytearray(path.read_bytes())
    at = data.find(b"TREE")
    data[at : at + 4] = b"TRXX"
    path.write_bytes(data)
    assert told(path).startswith("damaged HDF5 file (")


def test_a_copy_of_a_live_run_without_its_journal_says_so(path, tmp_path):
    with RunWriter.create(path, info()) as writer:
        fill(writer, range(10))
        writer.fold()
        fill(writer, range(10, 13))
        copy = tmp_path / "copy.h5"
        copy.write_bytes(path.read_bytes())
        log = read_log(copy)
    assert len(log.step) == 10
    assert log.notes == ("not closed: newer rows may be in its journal, which is not here",)


LATEST = """
import h5py, os, signal, sys
file = h5py.File(sys.argv[1], "w", libver="latest")
file["step"] = [0, 1, 2]
if sys.argv[2] == "swmr":
    file.swmr_mode = True
file.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_of_the_latest_format_is_named(path):
    subprocess.run([sys.executable, "-c", LATEST, str(path), "plain"])
    assert told(path) == "was not closed by the program that wrote it"
    assert "h5clear -s" in refusal(path).hint


def test_a_killed_swmr_writer_is_read_as_far_as_it_had_flushed(path):
    subprocess.run([sys.executable, "-c", LATEST, str(path), "swmr"])
    log = read_log(path)
    np.testing.assert_array_equal(log.step, [0, 1, 2])
    assert log.notes == ("not closed by the program that wrote it: the rows it had flushed",)


def test_the_empty_log_helper_is_a_log():
    log = RunLog.empty("x.h5", layers=("a",))
    assert (log.path, log.layers, len(log.step), log.column("loss")) == ("x.h5", ("a",), 0, None)
    assert len(log.step_of("eval_loss")) == 0
