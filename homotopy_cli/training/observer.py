"""What a watcher of a run is told while it lives; the terminal's progress line is one."""

from dataclasses import dataclass
from typing import Protocol

from homotopy_cli.records import EvalRecord, EventRecord

RESUMING = "RESUMING"  # code of the event that says where a resumed run goes on; not in the log


@dataclass(frozen=True)
class StepView:
    """One step, and the newest curvature known at it; None = not measured (yet)."""

    step: int  # 0-based; the step just done
    total: int  # steps of the whole run
    loss: float
    lr: float  # used for this step
    lambda_max: float | None  # loss/parameter²
    kappa: float | None  # 1/loss
    edge_ratio: float | None  # lr·λ / stability threshold; 1 is the edge
    probe_share: float  # share of this process's time spent probing, 0..1
    seconds: float  # since this process began to train
    eta: float  # seconds left, at the mean pace so far


class Observer(Protocol):
    """Called between steps; must be quick and must not raise."""

    def start(self, total: int, first: int) -> None: ...

    def step(self, view: StepView) -> None: ...

    def evaluation(self, record: EvalRecord) -> None: ...

    def event(self, record: EventRecord) -> None: ...

    def stop(self) -> None: ...


class Silent:
    """The observer of a run that nobody watches."""

    def start(self, total: int, first: int) -> None:
        """Ignore."""

    def step(self, view: StepView) -> None:
        """Ignore."""

    def evaluation(self, record: EvalRecord) -> None:
        """Ignore."""

    def event(self, record: EventRecord) -> None:
        """Ignore."""

    def stop(self) -> None:
        """Ignore."""
