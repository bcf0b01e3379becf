"""Content to HDF5: a whole file built in memory, the same bytes for the same content, then
swapped in by os.replace. Nothing ever writes into a run.h5 that exists."""

import os
from pathlib import Path

import h5py
import numpy as np

from homotopy_cli._version import __version__
from homotopy_cli.errors import LogError, typed
from homotopy_cli.runlog import codec, faults, schema
from homotopy_cli.runlog.content import LogContent
from homotopy_cli.runlog.integrity import SEAL, sealed
from homotopy_cli.runlog.text import storable

# Below this a compressed dataset is no smaller: its chunk index alone takes about 2 KiB.
_COMPRESS_FROM = 16 * 1024


def build_image(content: LogContent, *, compress: bool = False) -> bytes:
    """Build the HDF5 file of a log in memory.

    Deterministic: no time stamps; the same content gives the same bytes. Only libver-earliest
    features, so that every HDF5 since 1.8 reads it.

    Args:
        content: What to write. Value columns that it lacks are written as all-NaN only if the
            schema promises them to every reader.
        compress: gzip and shuffle for datasets above 16 KiB; slower, for the final fold.
    """
    estimate = 10 * content.n_rows * (2 + len(content.steps))
    driver = {"driver": "core", "backing_store": False, "block_size": max(2**16, estimate // 4)}
    with h5py.File("run.h5", "w", libver=("earliest", "v108"), **driver) as file:
        _Builder(file, content, compress).build()
        file.flush()
        return sealed(file.id.get_file_image())


class _Builder:
    def __init__(self, file: h5py.File, content: LogContent, compress: bool) -> None:
        self.file = file
        self.content = content
        self.compress = compress

    def build(self) -> None:
        content = self.content
        self.file.attrs["checksum"] = SEAL
        for name, value in _attributes(content).items():
            self.file.attrs[name] = value
        scales = {
            "n": self._put("step", content.step),
            "m": self._put("probe_step", content.probe_step),
            "v": self._put("eval_step", content.eval_step),
            "L": self._put("layer", [storable(name) for name in content.info.layers]),
        }
        for scale in scales.values():
            scale.make_scale(scale.name.lstrip("/"))
        self.scales = scales
        self._put("attempt", content.attempt)
        self._put("probe_attempt", content.probe_attempt)
        self._put("eval_attempt", content.eval_attempt)
        self._put("layer_numel", np.asarray(content.info.layer_numel, "i8"))
        self._put("layer_kind", [storable(kind) for kind in content.info.layer_kind])
        self._values(schema.STEP_VALUES, content.steps, (content.n_rows,))
        n_probes = len(content.probe_step)
        self._values(schema.PROBE_VALUES, content.probes, (n_probes,))
        shape = (n_probes, len(content.info.layers))
        self._values(schema.LAYER_VALUES, content.layer_values, shape)
        self._values(schema.EVAL_VALUES, content.evals, (len(content.eval_step),))
        self._spectra()
        self._events()
        self._provenance()

    def _values(self, columns: tuple[schema.Column, ...], values: dict, shape: tuple) -> None:
        for column in columns:
            if column.name in values:
                self._put(column.path, values[column.name])
            elif column.always:
                self._put(column.path, np.full(shape, np.nan))

    def _spectra(self) -> None:
        spectra = self.content.spectra
        self._put("spectra/values", spectra.values)
        self._put("spectra/weight", spectra.weights)
        self._put("spectra/offset", spectra.offset)
        self._put("spectra/spectrum_step", spectra.step)
        self._put("spectra/spectrum_attempt", spectra.attempt)
        self._put("spectra/spectrum_layer", spectra.layer)
        self._put("spectra/kind", spectra.kind)

    def _events(self) -> None:
        events = self.content.events
        self._put("events/event_step", np.array([event.step for _, event in events], "i8"))
        self._put("events/event_attempt", np.array([attempt for attempt, _ in events], "i2"))
        self._put("events/level", [event.level for _, event in events])
        self._put("events/code", [storable(event.code) for _, event in events])
        self._put("events/message", [storable(event.message) for _, event in events])

    def _provenance(self) -> None:
        info = self.content.info
        self._put("provenance/recipe_source", storable(info.recipe_source))
        self._put("provenance/recipe_resolved", storable(codec.to_json(info.recipe_resolved)))
        self._put("provenance/environment", storable(codec.to_json(info.environment)))
        self._put("provenance/argv", storable(codec.to_json(info.argv)))
        self._put("provenance/seed", np.int64(info.seed))
        self._put("provenance/n_params", np.int64(info.n_params))
        self._put("provenance/attempt_start", np.asarray(self.content.attempt_start, "i8"))

    def _put(self, path: str, values: object) -> h5py.Dataset:
        column = schema.BY_PATH[path]
        if column.dtype == "str":
            dtype = h5py.string_dtype("utf-8")
            data = values if isinstance(values, str) else np.array(values, dtype=object)
        else:
            dtype = np.dtype("<" + column.dtype)
            data = _encoded(np.asarray(values), dtype)
        dataset = self.file.create_dataset(
            path, data=data, dtype=dtype, track_times=False, **self._layout(data, dtype)
        )
        dataset.attrs["units"] = column.unit
        dataset.attrs["description"] = column.description
        if column.unit == "code" and column.dtype == "i1":
            dataset.attrs["_FillValue"] = dtype.type(-1)  # read as NaN by xarray, netCDF tools
        for axis, symbol in enumerate(column.shape):
            if symbol in getattr(self, "scales", ()):
                dataset.dims[axis].attach_scale(self.scales[symbol])
        return dataset

    def _layout(self, data: object, dtype: np.dtype) -> dict:
        if not self.compress or dtype.hasobject or data.nbytes < _COMPRESS_FROM:
            return {}
        rows = 8192 if data.ndim == 1 else max(1, min(256, len(data)))
        chunks = (min(rows, len(data)), *data.shape[1:])
        return {"chunks": chunks, "compression": "gzip", "compression_opts": 4, "shuffle": True}


def _encoded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "i" and values.dtype.kind == "f":  # codes: -1 = not recorded
        values = np.where(np.isfinite(values), values, -1).round().clip(-1, 127)
    return values.astype(dtype, copy=False)


def _attributes(content: LogContent) -> dict[str, object]:
    return {
        "format": schema.FORMAT,
        "schema_version": schema.SCHEMA_VERSION,
        "run_id": storable(content.info.run_id),
        "writer": f"homotopy {__version__}",
        "created_utc": storable(content.info.created_utc),
        "rows_committed": np.int64(content.n_rows),
        "closed": np.int64(content.closed),
        "attempts": np.int64(len(content.attempt_start)),
        "status": content.status,
        "journal_seq": np.int64(content.seq),
    }


def replace_file(path: Path, image: bytes) -> None:
    """Put `image` at `path` in one step: whoever looks sees the old file or the new one.

    Raises:
        OSError: The old file, if any, is unchanged; no temporary file is left behind.
    """
    faults.reach("fold.image")
    temporary = path.with_name(path.name + ".partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(temporary, flags, 0o666)
    try:
        try:
            view = memoryview(image)
            if faults.due("fold.torn"):
                os.write(fd, view[: len(view) // 2])
                faults.die()
            while view:
                view = view[os.write(fd, view) :]
            faults.reach("fold.written")
            os.fsync(fd)
        finally:
            os.close(fd)
        faults.reach("fold.synced")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    faults.reach("fold.replaced")
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def verify_file(path: Path, rows: int) -> None:
    """Reopen the file just written.

    Raises:
        LogError: It does not hold what was meant.
    """
    with h5py.File(path, "r") as file:
        stored = (int(file.attrs["closed"]), int(file.attrs["rows_committed"]), len(file["step"]))
    if stored != (1, rows, rows):
        raise LogError(
            f"{path}: reads back {stored} instead of {(1, rows, rows)}: its journal is kept",
            hint=f"homotopy report {typed(path)}",
        )
