"""RunWriter: acknowledge each record in the journal, fold now and then, close with a proof."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from homotopy_cli.errors import TrainingDiverged
from homotopy_cli.records import EvalRecord, EventRecord, ProbeRecord, RunInfo, StepRecord
from homotopy_cli.runlog import codec, faults, schema, trouble
from homotopy_cli.runlog.buffers import Buffers
from homotopy_cli.runlog.fold import build_image, replace_file, sync_folder, verify_file
from homotopy_cli.runlog.journal import Journal, frame
from homotopy_cli.runlog.sink import Backoff, Sink
from homotopy_cli.runlog.start import begin, proceed, unwritable
from homotopy_cli.runlog.text import storable, storable_info

FOLD_ROWS = 50  # at least so many new rows
FOLD_SHARE = 0.01  # of the run's time, at most


class RunWriter:
    """Write one run's log. Use `create` or `resume`; close it, or use it as a context manager.

    When an `append_*` returns, the record is in the operating system's hands: a kill of this
    process cannot lose it. An exception inside `with` closes the log as "diverged"
    (TrainingDiverged) or "interrupted".

    Attributes:
        path: The run.h5.
        attempt: 0 for a new run, one more for each resume.
        on_event: Called with every event, the log's own included; for the terminal.
        unclosed: Why close() returned False, in words.
        lost_rows: Steps that were then neither in run.h5 nor in its journal.
    """

    def __init__(
        self,
        path: Path,
        buffers: Buffers,
        journal: Journal,
        *,
        on_error: Literal["warn", "fail"] = "warn",
        on_event: Callable[[EventRecord], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.attempt = len(buffers.attempt_start) - 1
        self.on_event = on_event
        self._buffers = buffers
        self._layout = buffers.layout
        self._sink = Sink(journal, clock)
        self._fold_backoff = Backoff(clock)
        self._on_error = on_error
        self._clock = clock
        self._began = clock()
        self._fold_seconds = 0.0
        self._folded_rows = buffers.n_rows
        self._rows = buffers.n_rows
        self._last_step = buffers.last_step(self.attempt)
        self._troubled = False
        self._safe_step = self._last_step  # rows until here are in the journal or the file
        self._safe_rows = self._rows  # how many those are
        self.unclosed, self.lost_rows = "", 0
        self._open = True

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], info: RunInfo, *, overwrite: bool = False, **options
    ) -> "RunWriter":
        """Start a new run.

        Args:
            path: The run.h5 to be; missing folders are made.
            info: Facts of the run. `created_utc` is filled in if empty; `argv` is stored with
                words that look like secrets redacted.
            overwrite: Replace an existing log. It stays as it is until the first fold.
            **options: on_error ("warn": keep training when the disk fails; "fail": raise),
                on_event, clock.

        Raises:
            LogError: The path exists (unless `overwrite`), another process writes it, or the
                place is not writable; nothing was changed.
        """
        created = info.created_utc or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        info = storable_info(replace(info, created_utc=created))
        real = Path(os.path.realpath(path))
        buffers, journal = begin(real, info, overwrite=overwrite)
        return cls(real, buffers, journal, **options)

    @classmethod
    def resume(
        cls, path: str | os.PathLike[str], *, step: int, info: RunInfo | None = None, **options
    ) -> "RunWriter":
        """Continue a log with a new attempt.

        Args:
            path: The run.h5.
            step: The first step that the new attempt makes = the steps its checkpoint holds.
                Older rows from there on stay in the file and are hidden by readers.
            info: Checked against the log if given: the layers must be the same.
            **options: As in `create`.

        Raises:
            LogError: No log, another process writes it, it cannot be read, or other layers.
        """
        real = Path(os.path.realpath(path))
        buffers, journal, superseded = proceed(real, step=step, info=info)
        writer = cls(real, buffers, journal, **options)
        message = f"attempt {writer.attempt + 1} continues at step {step}"
        if superseded:
            message += f"; {superseded} later rows of earlier attempts stay in the file, hidden"
        writer.append_event(EventRecord(step, "info", "RESUMED", message))
        return writer

    @property
    def has_steps(self) -> bool:
        """Whether this attempt has made a step."""
        return self._last_step >= 0

    def append_step(self, record: StepRecord) -> None:
        """Add one optimizer step.

        Raises:
            ValueError: An unknown column, or a step that is not after the last one.
        """
        if record.step <= self._last_step:
            raise ValueError(f"step {record.step} after step {self._last_step}")
        row = self._layout.steps.pack(record.step, self.attempt, record.values)
        self._last_step = record.step
        self._rows += 1
        self._put(self._payload(codec.STEP, row))
        self._fold_if_due()

    def append_probe(self, record: ProbeRecord) -> None:
        """Add one curvature probe, with its per-layer values and its spectrum.

        Raises:
            ValueError: An unknown column or a wrong number of layers.
        """
        row = self._layout.probes.pack(record.step, self.attempt, record.values)
        layers = self._layout.pack_layers(record.layers)
        spectrum = None
        if record.spectrum is not None:
            spectrum = self._spectrum(record.step, *record.spectrum)
        self._put(self._payload(codec.PROBE, row + layers))
        if spectrum is not None:
            self._put(self._payload(codec.SPECTRUM, spectrum))

    def _spectrum(self, step: int, values: np.ndarray, weights: np.ndarray) -> bytes:
        density = len(weights) > 0 and abs(float(np.sum(weights)) - 1) < 1e-3
        return codec.pack_spectrum(step, self.attempt, -1, int(density), values, weights)

    def append_eval(self, record: EvalRecord) -> None:
        """Add one evaluation.

        Raises:
            ValueError: An unknown column.
        """
        row = self._layout.evals.pack(record.step, self.attempt, record.values)
        self._put(self._payload(codec.EVAL, row))

    def append_event(self, event: EventRecord) -> None:
        """Add one event, and pass it to `on_event`."""
        if event.level not in schema.LEVELS:
            raise ValueError(f"level {event.level!r}: one of {', '.join(schema.LEVELS)}")
        fields = {
            "step": int(event.step),
            "attempt": self.attempt,
            "level": event.level,
            "code": event.code,
            "message": storable(event.message),
        }
        self._put(self._payload(codec.EVENT, codec.to_json(fields).encode()))
        if self.on_event is not None:
            self.on_event(event)

    def _payload(self, kind: int, body: bytes) -> bytes:
        return codec.PREFIX.pack(kind, self._buffers.seq + 1) + body

    def _put(self, payload: bytes) -> None:
        if not self._open:
            raise ValueError(f"{self.path}: the log is closed")
        self._buffers.apply(memoryview(payload))
        self._sink.put(frame(payload))
        if not self._sink.failing:
            self._safe_step, self._safe_rows = self._last_step, self._rows
        if self._sink.failing != self._troubled:
            self._told(self._sink.backoff.error)

    def _told(self, error: OSError | None) -> None:
        """Say once that the disk fails, and once that it recovered."""
        if error is not None and self._on_error == "fail":
            raise unwritable(self.path, error) from error
        if error is not None and not self._troubled:
            self._troubled = True
            self.append_event(trouble.write_failed(self.path, self._last_step, error))
        elif self._troubled and not self._sink.failing and self._fold_backoff.error is None:
            self._troubled = False
            self.append_event(trouble.write_recovered(self.path, self._last_step))

    def _told_unclosed(self) -> None:
        self.lost_rows = self._rows - self._safe_rows if self._sink.failing else 0
        event = trouble.not_closed(
            self.path,
            self._last_step,
            self._fold_backoff.error,
            lost=self.lost_rows,
            safe=self._safe_step,
        )
        self.unclosed = event.message
        if self.on_event is not None:
            self.on_event(event)

    def _fold_if_due(self) -> None:
        if self._rows - self._folded_rows < FOLD_ROWS and not self._sink.overflowed:
            return
        elapsed = self._clock() - self._began
        if self._fold_seconds <= FOLD_SHARE * elapsed and self._fold_backoff.due:
            self.fold()

    def fold(self) -> bool:
        """Write everything until now into run.h5, in one step. False if the disk refused.

        Raises:
            LogError: It refused, and on_error is "fail".
        """
        return self._fold(closed=False)

    def _fold(self, *, closed: bool) -> bool:
        started = self._clock()
        try:
            image = build_image(self._buffers.content(closed=closed), compress=closed)
            replace_file(self.path, image)
            if closed:
                verify_file(self.path, self._rows)
            else:
                self._sink.folded()
        except OSError as error:
            self._fold_backoff.failed(error)
            self._told(error)
            return False
        finally:
            self._fold_seconds += self._clock() - started
        self._folded_rows = self._rows
        self._fold_backoff.succeeded()
        if self._troubled and not closed:
            self._told(None)
        return True

    def close(self, status: Literal["finished", "diverged", "interrupted"] = "finished") -> bool:
        """Fold for good, reopen and check the file, delete the journal.

        Returns:
            False if the disk refused: the journal stays, and with it every acknowledged record;
            `homotopy report` reads it. `unclosed` and `lost_rows` say what is missing.

        Raises:
            LogError: The disk refused and on_error is "fail", or the file written is not what
                was meant.
        """
        if status not in schema.STATUSES[1:]:
            raise ValueError(f"status {status!r}: one of {', '.join(schema.STATUSES[1:])}")
        if not self._open:
            return True
        journal = self._sink.journal
        try:
            self._sink.retry(now=True)
            self._put(self._payload(codec.STATUS, status.encode()))
            if not self._fold(closed=True):
                self._told_unclosed()
                journal.close()
                return False
        except BaseException:
            journal.close()
            raise
        finally:
            self._open = False
        faults.reach("close.verified")
        journal.remove()
        faults.reach("close.removed")
        sync_folder(self.path.parent)
        return True

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close("finished")
        elif isinstance(error, TrainingDiverged):
            self.close("diverged")
        else:
            self.close("interrupted")
