"""run.h5 to LogContent: what fits the schema is taken, what does not is noted."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from homotopy_cli.errors import LogError
from homotopy_cli.records import EventRecord, RunInfo
from homotopy_cli.runlog import schema
from homotopy_cli.runlog.content import LogContent, Spectra, no_spectra
from homotopy_cli.runlog.hdf5 import SafeReader, open_log
from homotopy_cli.runlog.load_journal import check_version


@dataclass(frozen=True)
class FileContent:
    """A run.h5 as read."""

    content: LogContent
    attrs: dict[str, str | int]
    absent: frozenset[str]  # provenance entries that it does not hold
    notes: tuple[str, ...]


def load_file(path: Path) -> FileContent:
    """Read a run.h5, without its journal, in this process.

    Raises:
        LogError: It cannot be opened, is no run, is refused, or is of a newer major version.
    """
    loader = _Loader(path)
    return FileContent(loader.content, loader.attrs, frozenset(loader.absent), tuple(loader.notes))


class _Loader:
    """Fills `content`, `attrs`, `absent` and `notes`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self.absent: set[str] = set()
        with open_log(path, self.notes) as file:
            self.reader = SafeReader(file, path, self.notes)
            self.attrs = self._attributes()
            self.content = self._content()

    def _attributes(self) -> dict[str, str | int]:
        attrs = {}
        for name, _ in schema.ATTRIBUTES:
            value = self.reader.attribute(name)
            if value is not None:
                attrs[name] = value
        kind = attrs.get("format")
        if kind is None and self.reader.dataset("step") is None:
            raise LogError(
                f"{self.path}: not a homotopy run: no attribute 'format' and no dataset 'step'; "
                f"found {self.reader.found()}",
                hint="give a run.h5 written by homotopy train",
            )
        if kind is not None and kind != schema.FORMAT:
            raise LogError(
                f"{self.path}: format is {str(kind)[:40]!r}, not {schema.FORMAT!r}",
                hint="give a run.h5 written by homotopy train",
            )
        if "schema_version" in attrs:
            check_version(self.path, attrs["schema_version"], self.notes)
        return attrs

    def _content(self) -> LogContent:
        step = self.reader.numbers("step", kinds="iu")
        if step is None:
            raise LogError(
                f"{self.path}: no usable dataset 'step'; found {self.reader.found()}",
                hint="give a run.h5 written by homotopy train",
            )
        step, attempt, steps = self._axis("step", step, "attempt", schema.STEP_VALUES)
        probe_step = self.reader.numbers("probe_step", kinds="iu")
        if probe_step is None:
            probe_step = self._guessed_probe_axis(step)
        probe_step, probe_attempt, probes = self._axis(
            "probe_step", probe_step, "probe_attempt", schema.PROBE_VALUES
        )
        eval_step = self.reader.numbers("eval_step", kinds="iu")
        eval_step, eval_attempt, evals = self._axis(
            "eval_step",
            np.empty(0, "i8") if eval_step is None else eval_step,
            "eval_attempt",
            schema.EVAL_VALUES,
        )
        layers, layer_values = self._layers(len(probe_step))
        probes_kept = len(next(iter(layer_values.values()), probe_step))
        if probes_kept < len(probe_step):
            probe_step, probe_attempt = probe_step[:probes_kept], probe_attempt[:probes_kept]
            probes = {name: values[:probes_kept] for name, values in probes.items()}
        attrs = self.attrs
        status = attrs.get("status")
        return LogContent(
            info=self._info(layers),
            attempt_start=self._attempt_start(step, attempt),
            status=status if status in schema.STATUSES else "running",
            closed=attrs.get("closed") == 1,
            seq=max(0, attrs["journal_seq"]) if isinstance(attrs.get("journal_seq"), int) else 0,
            step=step,
            attempt=attempt,
            steps=steps,
            probe_step=probe_step,
            probe_attempt=probe_attempt,
            probes=probes,
            layer_values=layer_values,
            eval_step=eval_step,
            eval_attempt=eval_attempt,
            evals=evals,
            spectra=self._spectra(len(layers[0])),
            events=self._events(),
        )

    def _axis(
        self, axis: str, steps: np.ndarray, attempt_name: str, columns: tuple[schema.Column, ...]
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """The columns of one axis, cut to a common length: a kill can leave them one row apart."""
        values = {}
        for column in columns:
            found = self.reader.numbers(column.path)
            if found is not None and len(steps) and not len(found):
                self.notes.append(f"/{column.path} ignored: empty, but /{axis} has rows")
            elif found is not None:
                values[column.name] = _decoded(found, column)
        attempt = self.reader.numbers(attempt_name, kinds="iu")
        lengths = {len(steps), *(len(found) for found in values.values())}
        if attempt is not None:
            lengths.add(len(attempt))
        rows = min(lengths)
        if len(lengths) > 1:
            self.notes.append(
                f"columns of /{axis} differ in length ({rows} to {max(lengths)}): "
                f"cut to {rows} rows"
            )
        attempt = np.zeros(rows, "i2") if attempt is None else attempt[:rows].astype("i2")
        cut = {name: found[:rows] for name, found in values.items()}
        return steps[:rows].astype("i8"), attempt, cut

    def _guessed_probe_axis(self, step: np.ndarray) -> np.ndarray:
        """Probe columns without /probe_step belong to /step if they are as long as it."""
        for column in schema.PROBE_VALUES:
            dataset = self.reader.dataset(column.path)
            if dataset is not None and dataset.shape == step.shape and len(step):
                self.notes.append("no /probe_step: probe columns are taken to follow /step")
                return step
        return np.empty(0, "i8")

    def _layers(
        self, n_probes: int
    ) -> tuple[tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...]], dict[str, np.ndarray]]:
        names = self.reader.strings("layer")
        values = {}
        for column in schema.LAYER_VALUES:
            found = self.reader.numbers(column.path, ndim=2)
            if found is None:
                continue
            if names is None:
                names = [f"layer {i}" for i in range(found.shape[1])]
                self.notes.append("no /layer: layers are numbered")
            if found.shape[1] == len(names):
                values[column.name] = found.astype("f4")
            else:
                self.notes.append(
                    f"/{column.path} ignored: {found.shape[1]} columns, {len(names)} layers"
                )
        rows = min([n_probes, *(len(found) for found in values.values())])
        if any(len(found) != rows for found in values.values()) or rows != n_probes:
            self.notes.append(f"per-layer columns differ in length: cut to {rows} probes")
        names = tuple(names or ())
        numel = self.reader.numbers("layer_numel", kinds="iu")
        kinds = self.reader.strings("layer_kind")
        if numel is None or len(numel) != len(names):
            numel = np.full(len(names), -1)
        if kinds is None or len(kinds) != len(names):
            kinds = [""] * len(names)
        cut = {name: found[:rows] for name, found in values.items()}
        return (names, tuple(int(count) for count in numel), tuple(kinds)), cut

    def _attempt_start(self, step: np.ndarray, attempt: np.ndarray) -> tuple[int, ...]:
        stored = self.reader.numbers("provenance/attempt_start", kinds="iu")
        if stored is not None and len(stored):
            return tuple(int(start) for start in stored[: 2**15])
        highest = int(attempt.max(initial=0))
        starts = [0]
        for number in range(1, min(highest, 1000) + 1):
            own = step[attempt == number]
            starts.append(int(own.min()) if len(own) else starts[-1])
        return tuple(starts)

    def _spectra(self, n_layers: int) -> Spectra:
        paths = ("spectrum_step", "spectrum_layer", "kind", "offset")
        parts = [self.reader.numbers(f"spectra/{name}", kinds="iu") for name in paths]
        values = self.reader.numbers("spectra/values")
        weights = self.reader.numbers("spectra/weight")
        if any(part is None for part in (*parts, values, weights)):
            return no_spectra()
        step, layer, kind, offset = (part.astype("i8") for part in parts)
        attempt = self.reader.numbers("spectra/spectrum_attempt", kinds="iu")
        attempt = np.zeros(len(step), "i2") if attempt is None else attempt.astype("i2")
        count = len(step)
        fits = (
            len(offset) == count + 1
            and count == len(layer) == len(kind) == len(attempt)
            and len(values) == len(weights)
            and offset[0] == 0
            and bool(np.all(np.diff(offset) >= 0))
            and offset[-1] <= len(values)
            and bool(np.all((layer >= -1) & (layer < n_layers)))
            and bool(np.all((kind >= 0) & (kind < len(schema.SPECTRUM_KINDS))))
        )
        if not fits:
            self.notes.append("/spectra ignored: its parts do not fit together")
            return no_spectra()
        end = offset[-1]
        return Spectra(
            step,
            attempt,
            layer.astype("i4"),
            kind.astype("u1"),
            offset,
            values[:end].astype("f4"),
            weights[:end].astype("f4"),
        )

    def _events(self) -> tuple[tuple[int, EventRecord], ...]:
        step = self.reader.numbers("events/event_step", kinds="iu")
        texts = [self.reader.strings(f"events/{name}") for name in ("level", "code", "message")]
        if step is None or any(text is None for text in texts):
            return ()
        attempt = self.reader.numbers("events/event_attempt", kinds="iu")
        if attempt is None or len(attempt) != len(step):
            attempt = np.zeros(len(step), "i2")
        if len({len(step), *(len(text) for text in texts)}) > 1:
            self.notes.append("/events differ in length: cut to the shortest")
        rows = zip(attempt, step, *texts, strict=False)
        return tuple(
            (
                int(a),
                EventRecord(int(s), level if level in schema.LEVELS else "info", code, message),
            )
            for a, s, level, code, message in rows
        )

    def _info(self, layers: tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...]]) -> RunInfo:
        texts = {}
        for name in ("recipe_source", "recipe_resolved", "environment", "argv"):
            text = self.reader.text(f"provenance/{name}")
            texts[name] = text
            if text is None:
                self.absent.add(name)
        numbers = {name: self.reader.integer(f"provenance/{name}") for name in ("seed", "n_params")}
        self.absent.update(name for name, value in numbers.items() if value is None)
        environment = _json(texts["environment"], {})
        argv = _json(texts["argv"], [])
        return RunInfo(
            run_id=str(self.attrs.get("run_id", "")),
            layers=layers[0],
            layer_numel=layers[1],
            layer_kind=layers[2],
            recipe_source=texts["recipe_source"] or "",
            recipe_resolved=_json(texts["recipe_resolved"], {}),
            environment={str(key): str(value) for key, value in environment.items()},
            argv=tuple(str(word) for word in argv),
            seed=-1 if numbers["seed"] is None else numbers["seed"],
            n_params=-1 if numbers["n_params"] is None else numbers["n_params"],
            created_utc=str(self.attrs.get("created_utc", "")),
        )


def _decoded(values: np.ndarray, column: schema.Column) -> np.ndarray:
    decoded = values.astype("f8")
    if column.dtype.startswith("i"):
        decoded[values == -1] = np.nan  # not recorded
    return decoded


def _json(text: str | None, default: Any) -> Any:
    """Parsed JSON of the default's type, or the default."""
    try:
        value = json.loads(text or "")
    except (ValueError, RecursionError):
        return default
    wanted = Mapping if isinstance(default, dict) else list
    return value if isinstance(value, wanted) else default
