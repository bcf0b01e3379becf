"""What a run did, in numbers and in words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from homotopy_cli.training.outputs import RunPaths

RISE_ALARM = 100.0  # a loss that rose by more has diverged, finite or not (our choice)
EDGE_ALARM = 2.0  # edge ratio; 1 is the edge, transient crossings up to ~2 are common


@dataclass
class Tally:
    """Running extremes of the rows; plain numbers, so that a resumed run keeps counting."""

    first_loss: float | None = None
    last_loss: float | None = None
    best_loss: float = math.inf
    peak_loss: float = -math.inf
    peak_step: int = 0
    lr_min: float = math.inf
    lr_max: float = 0.0
    capped_steps: int = 0  # steps whose lr curvature held below the schedule's
    capped_most: float = 1.0  # smallest lr / schedule_lr seen
    n_probes: int = 0
    peak_edge: float = 0.0  # largest edge ratio seen by a probe
    peak_edge_step: int = 0
    peak_edge_product: float = 0.0  # lr·λ there, λ that of the ratio, clipping counted in
    peak_edge_threshold: float = math.nan  # c: what it had to stay below
    peak_edge_clipped: bool = False  # whether that step was clipped
    spikes: int = 0

    def row(self, step: int, values: dict[str, float]) -> None:
        """Count one finished step."""
        loss, lr = values["loss"], values["lr"]
        if self.first_loss is None:
            self.first_loss = loss
        self.last_loss = loss
        self.best_loss = min(self.best_loss, loss)
        if loss > self.peak_loss:
            self.peak_loss, self.peak_step = loss, step
        self.lr_min, self.lr_max = min(self.lr_min, lr), max(self.lr_max, lr)
        asked = values.get("schedule_lr", lr)
        if lr < asked * (1 - 1e-9):
            self.capped_steps += 1
            self.capped_most = min(self.capped_most, lr / asked)

    def probe(self, step: int, values: Mapping[str, float], *, clip_coef: float) -> None:
        """Count one probe, taken before a step whose gradient was scaled with `clip_coef`."""
        self.n_probes += 1
        edge = values.get("edge_ratio", math.nan)
        if edge > self.peak_edge:
            self.peak_edge, self.peak_edge_step = edge, step
            self.peak_edge_threshold = values["edge_threshold"]
            self.peak_edge_product = edge * self.peak_edge_threshold
            self.peak_edge_clipped = clip_coef < 1.0

    def state_dict(self) -> dict[str, Any]:
        """Every field, plain."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue counting from `state_dict()`."""
        for name, value in state.items():
            setattr(self, name, value)


@dataclass(frozen=True)
class TrainResult:
    """How a run ended. `exit_code` is the process's: 0, 3 (diverged), 130 or 143 (signal).

    A limit on time ends a run as "interrupted" with exit code 0: it is saved and resumable.
    """

    status: str  # finished | diverged | interrupted
    step: int  # optimizer steps done, all attempts together
    total: int  # steps the recipe asked for
    paths: RunPaths
    tally: Tally
    final_loss: float | None  # the last row's mini-batch loss; None when no step was made
    n_params: int
    seconds: float  # of this process, first evaluation to last; 0: nothing was left to do
    probe_seconds: float  # of them, spent measuring curvature
    probe_share: float = 0.0  # of its steps' time, spent in probes: the page's probe share
    eval_loss: float | None = None
    eval_metric: float | None = None
    eval_metric_name: str = ""
    first_eval_loss: float | None = None
    baseline: dict[str, float] = field(default_factory=dict)  # e.g. unigram_entropy, nats
    scheduler: str = ""
    best_eval: tuple[int, float] | None = None  # (steps, loss) of best.pt; None: not kept
    fault: str = ""  # why it diverged, with the step
    spoilt: bool = False  # by NaN or infinity in the batch of that step
    early: str = ""  # why it finished before its last step
    late: str = ""  # which limit on time interrupted it
    unsaved: str = ""  # why the last weights could not be saved; exit_code is then 2
    unlogged: str = ""  # why the log could not be closed
    lost_rows: int = 0  # steps that are in no file of the log; exit_code is then 2, or 3
    signal: str = ""
    exit_code: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def overhead(self) -> float:
        """Share of this process's time that measuring took, spectra included; 0 with no step."""
        return self.probe_seconds / self.seconds if self.seconds > 0 else 0.0


def findings(result: TrainResult) -> list[str]:
    """Sentences on what went wrong or was prevented; empty for an uneventful run."""
    tally, found = result.tally, []
    rise = _rise(tally)
    if rise > RISE_ALARM:
        finite = ": it diverged without becoming NaN" if result.status == "finished" else ""
        found.append(
            f"the loss rose by a factor of {rise:.3g} ({tally.first_loss:.4g} at the start, "
            f"{tally.peak_loss:.4g} at step {tally.peak_step}){finite}"
        )
    if tally.peak_edge > EDGE_ALARM:
        threshold = tally.peak_edge_threshold
        above = "far above" if tally.peak_edge > 10 else "above"
        what = "lr x curvature" + ", clipping counted in," * tally.peak_edge_clipped
        found.append(
            f"{what} reached {tally.peak_edge_product:.3g} at step {tally.peak_edge_step}, "
            f"{above} the stability threshold {threshold:.3g}"
        )
    if tally.capped_steps:
        least = f"{tally.capped_most:.3g}"
        found.append(
            f"curvature held the learning rate below its schedule on {tally.capped_steps} of "
            f"{result.step} steps (down to {least} of it)"
        )
    if tally.spikes:
        found.append(f"{tally.spikes} spike{'s' * (tally.spikes > 1)} of loss or gradient norm")
    return found


def advice(result: TrainResult) -> str:
    """What to try next when data or learning rate spoilt this run, else ""."""
    if result.spoilt:
        return "remove or repair those rows of the data: no learning rate helps"
    bad = result.status == "diverged" or _rise(result.tally) > RISE_ALARM
    if not bad or result.scheduler.endswith("homotopy"):
        return ""
    return "--set scheduler=homotopy lets curvature cap the rate, or lower optimizer.lr"


def _rise(tally: Tally) -> float:
    first = tally.first_loss
    return tally.peak_loss / first if first and first > 0 and tally.peak_loss > 0 else 1.0
