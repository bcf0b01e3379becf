"""A whole log as arrays: what the loader yields, what the fold writes, what the view filters."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from homotopy_cli.records import EventRecord, RunInfo


@dataclass(frozen=True)
class Spectra:
    """Ragged spectra: number i has values[offset[i]:offset[i + 1]]."""

    step: np.ndarray  # i8 (p,)
    attempt: np.ndarray  # i2 (p,)
    layer: np.ndarray  # i4 (p,), -1 = whole model
    kind: np.ndarray  # u1 (p,), index into schema.SPECTRUM_KINDS
    offset: np.ndarray  # i8 (p + 1,)
    values: np.ndarray  # f4 (K,)
    weights: np.ndarray  # f4 (K,)


def no_spectra() -> Spectra:
    return Spectra(
        np.empty(0, "i8"),
        np.empty(0, "i2"),
        np.empty(0, "i4"),
        np.empty(0, "u1"),
        np.zeros(1, "i8"),
        np.empty(0, "f4"),
        np.empty(0, "f4"),
    )


@dataclass(frozen=True)
class LogContent:
    """Everything in a log, every attempt, in the order in which it was written.

    Columns are f8 (layers: f4) with NaN for "not measured"; a column that a file does not hold
    is an absent key.
    """

    info: RunInfo
    attempt_start: tuple[int, ...] = (0,)  # first step that each attempt made
    status: str = "running"
    closed: bool = False
    seq: int = 0  # number of the last journal record inside
    step: np.ndarray = field(default_factory=lambda: np.empty(0, "i8"))  # (n,)
    attempt: np.ndarray = field(default_factory=lambda: np.empty(0, "i2"))  # (n,)
    steps: Mapping[str, np.ndarray] = field(default_factory=dict)  # f8 (n,)
    probe_step: np.ndarray = field(default_factory=lambda: np.empty(0, "i8"))  # (m,)
    probe_attempt: np.ndarray = field(default_factory=lambda: np.empty(0, "i2"))  # (m,)
    probes: Mapping[str, np.ndarray] = field(default_factory=dict)  # f8 (m,)
    layer_values: Mapping[str, np.ndarray] = field(default_factory=dict)  # f4 (m, L)
    eval_step: np.ndarray = field(default_factory=lambda: np.empty(0, "i8"))  # (v,)
    eval_attempt: np.ndarray = field(default_factory=lambda: np.empty(0, "i2"))  # (v,)
    evals: Mapping[str, np.ndarray] = field(default_factory=dict)  # f8 (v,)
    spectra: Spectra = field(default_factory=no_spectra)
    events: tuple[tuple[int, EventRecord], ...] = ()  # (attempt, event)

    @property
    def n_rows(self) -> int:
        return len(self.step)


def limits(attempt_start: tuple[int, ...]) -> np.ndarray:
    """Per attempt, the first step that a later attempt took over: its rows end there."""
    starts = np.array([*attempt_start[1:], np.iinfo("i8").max], "i8")
    return np.minimum.accumulate(starts[::-1])[::-1]


def limit_of(attempt: np.ndarray, attempt_limits: np.ndarray) -> np.ndarray:
    """Each row's limit; attempts that the log does not list count as the nearest listed one."""
    return attempt_limits[np.clip(attempt, 0, len(attempt_limits) - 1)]


def join(first: LogContent, second: LogContent) -> LogContent:
    """The rows of `first`, then those of `second`; facts about the run are taken from `second`."""
    n, m, v = len(first.step), len(first.probe_step), len(first.eval_step)
    n2, m2, v2 = len(second.step), len(second.probe_step), len(second.eval_step)
    a, b = first.spectra, second.spectra
    spectra = Spectra(
        _cat(a.step, b.step),
        _cat(a.attempt, b.attempt),
        _cat(a.layer, b.layer),
        _cat(a.kind, b.kind),
        _cat(a.offset, b.offset[1:] + a.offset[-1]),
        _cat(a.values, b.values),
        _cat(a.weights, b.weights),
    )
    return replace(
        second,
        seq=max(first.seq, second.seq),
        step=_cat(first.step, second.step),
        attempt=_cat(first.attempt, second.attempt),
        steps=_cat_columns(first.steps, n, second.steps, n2),
        probe_step=_cat(first.probe_step, second.probe_step),
        probe_attempt=_cat(first.probe_attempt, second.probe_attempt),
        probes=_cat_columns(first.probes, m, second.probes, m2),
        layer_values=_cat_columns(first.layer_values, m, second.layer_values, m2),
        eval_step=_cat(first.eval_step, second.eval_step),
        eval_attempt=_cat(first.eval_attempt, second.eval_attempt),
        evals=_cat_columns(first.evals, v, second.evals, v2),
        spectra=spectra,
        events=first.events + second.events,
    )


def _cat(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first if not len(second) else np.concatenate([first, second])


def _cat_columns(
    first: Mapping[str, np.ndarray], n: int, second: Mapping[str, np.ndarray], n2: int
) -> dict[str, np.ndarray]:
    columns = {}
    for name in [*first, *(name for name in second if name not in first)]:
        parts = [columns_of.get(name) for columns_of in (first, second)]
        known = next(part for part in parts if part is not None)
        columns[name] = np.concatenate(
            [
                np.full((rows, *known.shape[1:]), np.nan, known.dtype) if part is None else part
                for part, rows in zip(parts, (n, n2), strict=True)
            ]
        )
    return columns
