"""Growing rows of a live run: packed bytes, copied out as numpy columns when a fold needs them.

A bytearray grows by amortised doubling and takes a packed row in well under a microsecond; a
million rows of 11 columns are 98 MB, without one Python object per row.
"""

import json
from collections.abc import Mapping

import numpy as np

from homotopy_cli.records import EventRecord, RunInfo
from homotopy_cli.runlog import codec, schema
from homotopy_cli.runlog.content import LogContent, Spectra

_SPECTRUM = np.dtype([("step", "<i8"), ("attempt", "<i2"), ("layer", "<i4"), ("kind", "u1")])


class Buffers:
    """All rows of a run, in this process's schema, ready to be appended to or folded."""

    def __init__(self, info: RunInfo, attempt_start: tuple[int, ...]) -> None:
        self.info = info
        self.attempt_start = attempt_start
        self.status = "running"
        self.layout = codec.Layout.of_schema(len(info.layers))
        self._step_size = self.layout.steps.dtype.itemsize
        self.seq = 0  # last record applied
        self.lost = 0  # records whose numbers were skipped: damaged in the journal
        self._rows = {kind: bytearray() for kind in (codec.STEP, codec.PROBE, codec.EVAL)}
        self._layers: dict[str, bytearray] = {}
        self._spectra = bytearray()
        self._counts: list[int] = []
        self._values = bytearray()
        self._weights = bytearray()
        self.events: list[tuple[int, EventRecord]] = []

    def apply(self, payload: memoryview, layout: codec.Layout | None = None) -> bool:
        """Add one record unless it is known already; `layout` is that of a foreign journal.

        Raises:
            ValueError, struct.error: The payload does not have the announced form.
        """
        kind, seq = codec.PREFIX.unpack_from(payload)
        if kind == codec.HEADER or seq <= self.seq:
            return False
        codec.whole(seq)
        self._take(kind, payload[codec.PREFIX.size :], layout)
        self.lost += seq - self.seq - 1
        self.seq = seq
        return True

    def _take(self, kind: int, body: memoryview, layout: codec.Layout | None) -> None:
        if kind == codec.STEP and layout is None:  # nearly every record
            if len(body) != self._step_size:
                raise ValueError("row is not as long as its columns")
            self._rows[kind] += body
        elif kind in self._rows:
            self._take_row(kind, body, layout)
        elif kind == codec.SPECTRUM:
            head, values, weights = codec.unpack_spectrum(body)
            self._spectra += np.array(head, dtype=_SPECTRUM).tobytes()
            self._counts.append(len(values) // 4)
            self._values += values
            self._weights += weights
        elif kind == codec.EVENT:
            fields = json.loads(bytes(body))
            level = fields["level"] if fields["level"] in schema.LEVELS else "info"
            code, message = str(fields["code"]), str(fields["message"])
            event = EventRecord(codec.whole(fields["step"]), level, code, message)
            self.events.append((codec.whole(fields["attempt"], bits=15), event))
        elif kind == codec.STATUS:
            status = bytes(body).decode()
            if status not in schema.STATUSES:
                raise ValueError("unknown status")
            self.status = status

    def _take_row(self, kind: int, body: memoryview, foreign: codec.Layout | None) -> None:
        layout = foreign or self.layout
        row_format = _format(layout, kind)
        row = bytes(body[: row_format.dtype.itemsize])
        if len(row) != row_format.dtype.itemsize:
            raise ValueError("row shorter than its columns")
        if foreign is not None:
            row = _converted(row, row_format, _format(self.layout, kind))
        if kind == codec.PROBE:
            # before the row is added: a new column is padded for the probes made until now
            self._take_layers(layout.unpack_layers(body[row_format.dtype.itemsize :]))
        self._rows[kind] += row

    def _take_layers(self, rows: Mapping[str, bytes]) -> None:
        size = 4 * len(self.info.layers)
        blank = np.full(len(self.info.layers), np.nan, "<f4").tobytes()
        if any(len(row) != size for row in rows.values()):
            raise ValueError("layer row shorter than the number of layers")
        for name in rows:
            if name in self.layout.layer_columns and name not in self._layers:
                self._layers[name] = bytearray(blank * self.n_probes)
        for name, buffer in self._layers.items():
            buffer += rows.get(name, blank)

    @property
    def n_rows(self) -> int:
        return len(self._rows[codec.STEP]) // self._step_size

    @property
    def n_probes(self) -> int:
        return len(self._rows[codec.PROBE]) // self.layout.probes.dtype.itemsize

    def last_step(self, attempt: int) -> int:
        """The last step of this attempt, or the one before its first."""
        tail = self._rows[codec.STEP][-self._step_size :]
        if tail:
            step, last_attempt = self.layout.steps.struct.unpack(tail)[:2]
            if last_attempt == attempt:
                return step
        return self.attempt_start[attempt] - 1

    def content(self, *, closed: bool = False) -> LogContent:
        """Copy everything out as arrays. Columns that were never measured are left out."""
        steps = self._table(codec.STEP)
        probes = self._table(codec.PROBE)
        evals = self._table(codec.EVAL)
        spectra = np.frombuffer(bytes(self._spectra), _SPECTRUM)
        shape = (len(probes), len(self.info.layers))
        return LogContent(
            info=self.info,
            attempt_start=self.attempt_start,
            status=self.status,
            closed=closed,
            seq=self.seq,
            step=steps["step"].copy(),
            attempt=steps["attempt"].copy(),
            steps=_measured(steps, schema.STEP_VALUES),
            probe_step=probes["step"].copy(),
            probe_attempt=probes["attempt"].copy(),
            probes=_measured(probes, schema.PROBE_VALUES),
            layer_values={
                name: np.frombuffer(bytes(buffer), "<f4").reshape(shape)
                for name, buffer in sorted(self._layers.items())
            },
            eval_step=evals["step"].copy(),
            eval_attempt=evals["attempt"].copy(),
            evals=_measured(evals, schema.EVAL_VALUES),
            spectra=Spectra(
                *(spectra[name].copy() for name in ("step", "attempt", "layer", "kind")),
                offset=np.concatenate([[0], np.cumsum(self._counts, dtype="i8")]).astype("i8"),
                values=np.frombuffer(bytes(self._values), "<f4"),
                weights=np.frombuffer(bytes(self._weights), "<f4"),
            ),
            events=tuple(self.events),
        )

    def _table(self, kind: int) -> np.ndarray:
        return np.frombuffer(bytes(self._rows[kind]), _format(self.layout, kind).dtype)

    @classmethod
    def from_content(cls, content: LogContent) -> "Buffers":
        """Take over a log that is to be continued; columns unknown to this schema are dropped."""
        buffers = cls(content.info, content.attempt_start)
        buffers.seq = content.seq
        buffers.status = content.status
        buffers.events = list(content.events)
        tables = (
            (codec.STEP, content.step, content.attempt, content.steps),
            (codec.PROBE, content.probe_step, content.probe_attempt, content.probes),
            (codec.EVAL, content.eval_step, content.eval_attempt, content.evals),
        )
        for kind, step, attempt, columns in tables:
            row_format = _format(buffers.layout, kind)
            table = np.empty(len(step), row_format.dtype)
            table["step"], table["attempt"] = step, attempt
            for name in row_format.columns:
                table[name] = columns.get(name, np.nan)
            buffers._rows[kind] += table.tobytes()
        for name, values in content.layer_values.items():
            if name in buffers.layout.layer_columns:
                buffers._layers[name] = bytearray(np.ascontiguousarray(values, "<f4").tobytes())
        spectra = content.spectra
        table = np.empty(len(spectra.step), _SPECTRUM)
        for name in ("step", "attempt", "layer", "kind"):
            table[name] = getattr(spectra, name)
        buffers._spectra += table.tobytes()
        buffers._counts = np.diff(spectra.offset).tolist()
        buffers._values += np.ascontiguousarray(spectra.values, "<f4").tobytes()
        buffers._weights += np.ascontiguousarray(spectra.weights, "<f4").tobytes()
        return buffers


def _format(layout: codec.Layout, kind: int) -> codec.RowFormat:
    return {codec.STEP: layout.steps, codec.PROBE: layout.probes, codec.EVAL: layout.evals}[kind]


def _measured(table: np.ndarray, columns: tuple[schema.Column, ...]) -> dict[str, np.ndarray]:
    kept = {}
    for column in columns:
        values = np.ascontiguousarray(table[column.name])
        if column.always or not np.isnan(values).all():
            kept[column.name] = values
    return kept


def _converted(row: bytes, theirs: codec.RowFormat, ours: codec.RowFormat) -> bytes:
    """One row of a journal with other columns: common ones are kept by name."""
    step, attempt, *values = theirs.struct.unpack(row)
    known = {n: v for n, v in zip(theirs.columns, values, strict=True) if n in ours.position}
    return ours.pack(step, attempt, known)
