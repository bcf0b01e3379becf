"""The payload of a journal record: little-endian structs, JSON for the few textual kinds.

Every payload starts with (kind u1, seq u8). `seq` numbers the run's records from 1 on; run.h5
stores the last one it contains, so a record that is found in both is applied once.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from homotopy_cli.runlog import schema

HEADER, STEP, PROBE, EVAL, EVENT, SPECTRUM, STATUS = range(7)
PREFIX = struct.Struct("<BQ")
SPECTRUM_HEAD = struct.Struct("<qhiBI")  # step, attempt, layer, kind, count
MASK = struct.Struct("<I")


class RowFormat:
    """Rows (step i8, attempt i2, one f8 per column), packed without gaps."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        n = len(columns)
        fields = [("step", "<i8"), ("attempt", "<i2"), *((name, "<f8") for name in columns)]
        self.columns = columns
        self.struct = struct.Struct(f"<qh{n}d")
        self.dtype = np.dtype(fields)  # packed, the same bytes as `struct`
        self.position = {name: i for i, name in enumerate(columns)}
        self.blank = [float("nan")] * n

    def pack(self, step: int, attempt: int, values: Mapping[str, float]) -> bytes:
        """Pack one row.

        Raises:
            ValueError: A name is no column of the schema.
        """
        row = self.blank.copy()
        for name, value in values.items():
            try:
                row[self.position[name]] = value
            except KeyError:
                raise ValueError(
                    f"{name!r} is not a column of the log; known: {', '.join(self.columns)}"
                ) from None
        return self.struct.pack(step, attempt, *row)


@dataclass(frozen=True)
class Layout:
    """Which columns the records of one journal hold, in which order."""

    steps: RowFormat
    probes: RowFormat
    evals: RowFormat
    layer_columns: tuple[str, ...]
    n_layers: int

    @classmethod
    def of_schema(cls, n_layers: int) -> "Layout":
        return cls(
            RowFormat(schema.names(schema.STEP_VALUES)),
            RowFormat(schema.names(schema.PROBE_VALUES)),
            RowFormat(schema.names(schema.EVAL_VALUES)),
            schema.names(schema.LAYER_VALUES),
            n_layers,
        )

    @classmethod
    def of_header(cls, header: Mapping[str, Any]) -> "Layout":
        columns = header["columns"]
        return cls(
            RowFormat(tuple(columns["steps"])),
            RowFormat(tuple(columns["probes"])),
            RowFormat(tuple(columns["evals"])),
            tuple(columns["layers"]),
            len(header["layer"]),
        )

    def described(self) -> dict[str, list[str]]:
        return {
            "steps": list(self.steps.columns),
            "probes": list(self.probes.columns),
            "evals": list(self.evals.columns),
            "layers": list(self.layer_columns),
        }

    def pack_layers(self, layers: Mapping[str, np.ndarray]) -> bytes:
        """Pack the per-layer part of a probe: a bit per column present, then f4 rows.

        Raises:
            ValueError: An unknown column, or one whose length is not the number of layers.
        """
        unknown = [name for name in layers if name not in self.layer_columns]
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is not a per-layer column of the log; "
                f"known: {', '.join(self.layer_columns)}"
            )
        mask, parts = 0, []
        for bit, name in enumerate(self.layer_columns):
            if name not in layers:
                continue
            row = np.ascontiguousarray(layers[name], dtype="<f4")
            if row.shape != (self.n_layers,):
                raise ValueError(f"{name}: shape {row.shape}, expected ({self.n_layers},)")
            mask |= 1 << bit
            parts.append(row.tobytes())
        return MASK.pack(mask) + b"".join(parts)

    def unpack_layers(self, body: memoryview) -> dict[str, bytes]:
        (mask,) = MASK.unpack_from(body)
        size, offset, rows = 4 * self.n_layers, MASK.size, {}
        for bit, name in enumerate(self.layer_columns):
            if mask >> bit & 1:
                rows[name] = bytes(body[offset : offset + size])
                offset += size
        return rows


def pack_spectrum(
    step: int, attempt: int, layer: int, kind: int, values: np.ndarray, weights: np.ndarray
) -> bytes:
    """Pack one spectrum.

    Raises:
        ValueError: values and weights are not 1-D of one length.
    """
    values = np.ascontiguousarray(values, dtype="<f4")
    weights = np.ascontiguousarray(weights, dtype="<f4")
    if values.ndim != 1 or values.shape != weights.shape:
        raise ValueError(f"spectrum: values {values.shape} and weights {weights.shape} must be 1-D")
    head = SPECTRUM_HEAD.pack(step, attempt, layer, kind, len(values))
    return head + values.tobytes() + weights.tobytes()


def unpack_spectrum(body: memoryview) -> tuple[tuple[int, int, int, int], bytes, bytes]:
    step, attempt, layer, kind, count = SPECTRUM_HEAD.unpack_from(body)
    start, size = SPECTRUM_HEAD.size, 4 * count
    values = bytes(body[start : start + size])
    weights = bytes(body[start + size : start + 2 * size])
    if len(weights) != size:
        raise ValueError("spectrum shorter than its count")
    return (step, attempt, layer, kind), values, weights


def whole(value: Any, bits: int = 63) -> int:
    """A whole number that fits a signed integer of bits + 1 bits.

    Raises:
        ValueError, TypeError: It is none, as in a crafted record.
    """
    number = int(value)
    if not -(2**bits) <= number < 2**bits:
        raise ValueError(f"{value} does not fit {bits + 1} bits")
    return number


def to_json(value: Any) -> str:
    """Compact strict JSON: sorted keys; NaN and infinities become the strings "nan", "inf"."""
    return json.dumps(_strict(value), sort_keys=True, allow_nan=False, separators=(",", ":"))


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
