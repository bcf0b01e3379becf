"""RunLog: a log as its readers want it, the newest attempt, numpy columns by name."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from homotopy_cli.records import EventRecord
from homotopy_cli.runlog import schema
from homotopy_cli.runlog.content import LogContent, limit_of, limits
from homotopy_cli.runlog.load import Loaded


@dataclass(frozen=True)
class Spectrum:
    """One spectrum of one probe."""

    step: int
    layer: int  # index into RunLog.layers; -1 = the whole model
    values: np.ndarray  # (k,) eigenvalues or density nodes, loss/parameter²
    weights: np.ndarray  # (k,) sum to 1 in a density
    kind: str = "eigenvalues"  # schema.SPECTRUM_KINDS


@dataclass(frozen=True)
class RunLog:
    """A run as numpy arrays: the newest attempt's view.

    Where a run was resumed at step k, rows of older attempts from step k on are hidden
    (`hidden_rows`; they stay in the file). A column that the log does not hold is an absent key;
    NaN means "not measured at this row". Infinities are kept.
    """

    path: str
    attrs: dict[str, str | int]
    step: np.ndarray  # i8 (n,)
    steps: dict[str, np.ndarray]  # f8 (n,)
    probe_step: np.ndarray  # i8 (m,)
    probes: dict[str, np.ndarray]  # f8 (m,)
    layers: tuple[str, ...]  # (L,)
    layer_numel: np.ndarray  # i8 (L,), -1 = unknown
    layer_kind: tuple[str, ...]  # (L,)
    layer_values: dict[str, np.ndarray]  # f4 (m, L)
    eval_step: np.ndarray  # i8 (v,)
    evals: dict[str, np.ndarray]  # f8 (v,)
    spectra: tuple[Spectrum, ...]
    events: tuple[EventRecord, ...]
    provenance: dict[str, Any]  # recipe_source recipe_resolved environment argv seed n_params
    missing: tuple[str, ...] = ()  # columns that every run's log should hold, and this does not
    notes: tuple[str, ...] = ()  # what a reader of the log should be told, in words
    attempt: np.ndarray = field(default_factory=lambda: np.empty(0, "i2"))  # i2 (n,)
    attempt_start: tuple[int, ...] = (0,)  # first step of each attempt
    hidden_rows: int = 0  # rows of older attempts that this view leaves out

    def column(self, name: str) -> np.ndarray | None:
        """A column by its schema name, from whichever axis it is on; None if absent.

        Raises:
            KeyError: The schema has no such column.
        """
        _axis(name)
        for columns in (self.steps, self.probes, self.evals, self.layer_values):
            if name in columns:
                return columns[name]
        return None

    def step_of(self, name: str) -> np.ndarray:
        """The optimizer steps at which a column's rows were taken.

        Raises:
            KeyError: The schema has no such column.
        """
        return {"n": self.step, "m": self.probe_step, "v": self.eval_step}[_axis(name)]

    def measured(self, name: str) -> bool:
        """Whether the column holds any value that is not NaN."""
        values = self.column(name)
        return values is not None and not bool(np.isnan(values).all())

    @property
    def status(self) -> str:
        return str(self.attrs.get("status", "running"))

    @property
    def closed(self) -> bool:
        return self.attrs.get("closed") == 1

    @classmethod
    def empty(cls, path: str = "run.h5", **changes: Any) -> "RunLog":
        """A log without rows, for tests and for a page that says so."""
        log = cls(
            path=path,
            attrs={},
            step=np.empty(0, "i8"),
            steps={},
            probe_step=np.empty(0, "i8"),
            probes={},
            layers=(),
            layer_numel=np.empty(0, "i8"),
            layer_kind=(),
            layer_values={},
            eval_step=np.empty(0, "i8"),
            evals={},
            spectra=(),
            events=(),
            provenance={},
        )
        return replace(log, **changes)


def _axis(name: str) -> str:
    for columns in (
        schema.STEP_VALUES,
        schema.PROBE_VALUES,
        schema.LAYER_VALUES,
        schema.EVAL_VALUES,
    ):
        for column in columns:
            if column.name == name:
                return column.shape[0]
    raise KeyError(f"the log's schema has no column {name!r}")


def newest_attempt(path: Path, loaded: Loaded) -> RunLog:
    """Filter a loaded log to what the newest attempt continued and made."""
    content = loaded.content
    ends = limits(content.attempt_start)
    shown = content.step < limit_of(content.attempt, ends)
    probed = content.probe_step < limit_of(content.probe_attempt, ends)
    evaluated = _evaluations(content, ends)
    hidden = int(np.count_nonzero(~shown))
    notes = list(loaded.notes)
    if hidden:
        resumed = ", ".join(str(step) for step in content.attempt_start[1:][-5:])
        notes.append(f"{hidden} rows of earlier attempts hidden: resumed at step {resumed}")
    columns = {*content.steps, *content.probes}
    return RunLog(
        path=str(path),
        attrs=loaded.attrs,
        step=content.step[shown],
        steps={name: values[shown] for name, values in content.steps.items()},
        probe_step=content.probe_step[probed],
        probes={name: values[probed] for name, values in content.probes.items()},
        layers=content.info.layers,
        layer_numel=np.asarray(content.info.layer_numel, "i8"),
        layer_kind=content.info.layer_kind,
        layer_values={name: values[probed] for name, values in content.layer_values.items()},
        eval_step=content.eval_step[evaluated],
        evals={name: values[evaluated] for name, values in content.evals.items()},
        spectra=_spectra(content, ends),
        events=_events(content, ends),
        provenance=_provenance(loaded),
        missing=tuple(name for name in schema.EXPECTED if name not in columns),
        notes=tuple(notes),
        attempt=content.attempt[shown],
        attempt_start=content.attempt_start,
        hidden_rows=hidden,
    )


def _evaluations(content: LogContent, ends: np.ndarray) -> np.ndarray:
    """An evaluation after k steps is also the state from which attempt k goes on, so it stays,
    unless that attempt repeated it."""
    steps = content.eval_step
    index = np.flatnonzero(steps <= limit_of(content.eval_attempt, ends))
    last = {int(steps[i]): i for i in index}
    return np.array([i for i in index if last[int(steps[i])] == i], dtype="i8")


def _spectra(content: LogContent, ends: np.ndarray) -> tuple[Spectrum, ...]:
    stored = content.spectra
    shown = stored.step < limit_of(stored.attempt, ends)
    return tuple(
        Spectrum(
            step=int(stored.step[i]),
            layer=int(stored.layer[i]),
            values=stored.values[stored.offset[i] : stored.offset[i + 1]],
            weights=stored.weights[stored.offset[i] : stored.offset[i + 1]],
            kind=schema.SPECTRUM_KINDS[int(stored.kind[i])],
        )
        for i in np.flatnonzero(shown)
        if -1 <= stored.layer[i] < len(content.info.layers)
        and stored.kind[i] < len(schema.SPECTRUM_KINDS)
    )


def _events(content: LogContent, ends: np.ndarray) -> tuple[EventRecord, ...]:
    last = len(ends) - 1
    return tuple(
        event for attempt, event in content.events if event.step < ends[min(max(attempt, 0), last)]
    )


def _provenance(loaded: Loaded) -> dict[str, Any]:
    info = loaded.content.info
    entries = {
        "recipe_source": info.recipe_source,
        "recipe_resolved": dict(info.recipe_resolved),
        "environment": dict(info.environment),
        "argv": info.argv,
        "seed": info.seed,
        "n_params": info.n_params,
    }
    return {name: value for name, value in entries.items() if name not in loaded.absent}
