"""A journal's bytes to LogContent: the header rebuilds the run, the records its rows."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homotopy_cli.errors import LogError
from homotopy_cli.records import RunInfo
from homotopy_cli.runlog import codec, schema
from homotopy_cli.runlog.buffers import Buffers
from homotopy_cli.runlog.content import LogContent
from homotopy_cli.runlog.journal import Scan, journal_path

_MAX_BYTES = 2**32
_MALFORMED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,  # int(Infinity)
    struct.error,
    RecursionError,  # JSON nested too deeply
)


def header_payload(info: RunInfo, attempt_start: tuple[int, ...], seq: int) -> bytes:
    """The first record: all that is fixed, and the number of the last record before it."""
    header = {
        "format": "homotopy-journal",
        "schema_version": schema.SCHEMA_VERSION,
        "seq": seq,
        "attempt_start": list(attempt_start),
        "columns": codec.Layout.of_schema(len(info.layers)).described(),
        "run_id": info.run_id,
        "created_utc": info.created_utc,
        "layer": list(info.layers),
        "layer_numel": list(info.layer_numel),
        "layer_kind": list(info.layer_kind),
        "recipe_source": info.recipe_source,
        "recipe_resolved": info.recipe_resolved,
        "environment": info.environment,
        "argv": list(info.argv),
        "seed": info.seed,
        "n_params": info.n_params,
    }
    text = codec.to_json(header).encode()
    return codec.PREFIX.pack(codec.HEADER, seq) + text


@dataclass(frozen=True)
class JournalFile:
    """A journal with a readable header, not yet replayed."""

    log: Path
    path: Path
    data: bytes
    info: RunInfo
    attempt_start: tuple[int, ...]
    layout: codec.Layout
    seq: int  # last record before this journal; 0 = it holds the run from its start

    def replay(self, after: int) -> "Replay":
        """The rows of the records whose number is above `after`."""
        buffers = Buffers(self.info, self.attempt_start)
        buffers.seq = after
        scan = Scan(self.data)
        malformed = gap = 0
        started = False
        same = self.layout.described() == buffers.layout.described()
        for payload in scan:
            try:
                applied = buffers.apply(payload, None if same else self.layout)
            except _MALFORMED:
                malformed += 1
                continue
            if applied and not started:
                started, gap = True, buffers.lost
        notes = []
        if scan.damaged or malformed:
            notes.append(
                f"journal: {scan.damaged + malformed} damaged places skipped, "
                f"{buffers.lost} records before the last one lost"
            )
        elif buffers.lost:
            notes.append(f"journal: {buffers.lost} records before it are missing")
        if scan.torn:
            notes.append(f"journal: torn last record ignored ({scan.torn} bytes)")
        return Replay(buffers.content(), buffers.lost, gap, tuple(notes))


@dataclass(frozen=True)
class Replay:
    """What a journal adds to a file."""

    rows: LogContent
    lost: int  # records missing before or between those found
    gap: int  # those before the first: moved into a newer run.h5 meanwhile, or lost
    notes: tuple[str, ...]


def read_journal(log: Path, notes: list[str]) -> JournalFile | None:
    """The journal beside a log; None if there is none, or none whose header is readable.

    Raises:
        LogError: It was written by a newer major version, or cannot be read.
    """
    path = journal_path(log)
    try:
        with open(path, "rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LogError(
            f"{path}: cannot be read: {error.strerror}", hint="check its permissions"
        ) from error
    if len(data) > _MAX_BYTES:
        raise LogError(
            f"{path}: larger than {_MAX_BYTES} bytes", hint="remove it if it is not yours"
        )
    first = next(iter(Scan(data)), None)
    try:
        kind, _ = codec.PREFIX.unpack_from(first)
        if kind != codec.HEADER:
            raise ValueError("no header")
        header = json.loads(bytes(first[codec.PREFIX.size :]))
        check_version(path, header["schema_version"])
        return JournalFile(
            log,
            path,
            data,
            _info(header),
            tuple(codec.whole(step) for step in header["attempt_start"]) or (0,),
            codec.Layout.of_header(header),
            codec.whole(header["seq"]),
        )
    except _MALFORMED:
        if data:
            notes.append(f"{path.name}: no readable header, ignored")
        return None


def _info(header: dict[str, Any]) -> RunInfo:
    layers = tuple(str(name) for name in header["layer"])
    numel = tuple(codec.whole(count) for count in header["layer_numel"])
    kinds = tuple(str(kind) for kind in header["layer_kind"])
    if not len(layers) == len(numel) == len(kinds):
        raise ValueError("layers of unequal number")
    return RunInfo(
        run_id=str(header["run_id"]),
        layers=layers,
        layer_numel=numel,
        layer_kind=kinds,
        recipe_source=str(header["recipe_source"]),
        recipe_resolved=dict(header["recipe_resolved"]),
        environment={str(k): str(v) for k, v in dict(header["environment"]).items()},
        argv=tuple(str(word) for word in header["argv"]),
        seed=codec.whole(header["seed"]),
        n_params=codec.whole(header["n_params"]),
        created_utc=str(header["created_utc"]),
    )


def version_numbers(version: object) -> tuple[int, int] | None:
    """(major, minor), or None if it is not written as numbers."""
    try:
        major, minor = (int(part) for part in str(version).split(".")[:2])
    except ValueError:
        return None
    return major, minor


def check_version(path: Path, version: object, notes: list[str] | None = None) -> None:
    """The same major version always reads; a newer minor one may hold fields we ignore.

    Raises:
        LogError: A newer major version.
    """
    numbers = version_numbers(version)
    if numbers is None:
        if notes is not None:
            notes.append(f"schema version {str(version)[:20]!r} not understood: read as 1.0")
        return
    major, minor = numbers
    own_major, own_minor = version_numbers(schema.SCHEMA_VERSION)
    if major > own_major:
        raise LogError(
            f"{path}: written with log schema {major}.{minor}; "
            f"this version reads up to {own_major}.x",
            hint="pip install --upgrade homotopy-cli",
        )
    if minor > own_minor and major == own_major and notes is not None:
        notes.append(
            f"written with log schema {major}.{minor}: "
            f"fields newer than {schema.SCHEMA_VERSION} are ignored"
        )
