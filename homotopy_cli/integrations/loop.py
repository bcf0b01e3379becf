"""RunLogger: the log of a training loop of one's own, for `homotopy report`.

with RunLogger("run.h5", scheduler=scheduler) as log:
    ...
        optimizer.step()
        scheduler.step()
        log.step(loss=loss)
    log.evaluate(loss=held_out)
"""

import math
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from homotopy_cli.errors import LogError
from homotopy_cli.problems.partition import ROOT
from homotopy_cli.problems.wrappers import clean_name, unwrap
from homotopy_cli.records import EvalRecord, EventLevel, EventRecord, RunInfo, StepRecord
from homotopy_cli.runlog.writer import RunWriter
from homotopy_cli.schedulers.adam import HomotopyAdam
from homotopy_cli.schedulers.alarms import as_number
from homotopy_cli.schedulers.base import CurvatureScheduler
from homotopy_cli.schedulers.counting import StepCounter
from homotopy_cli.schedulers.groups import rates, unwrapped
from homotopy_cli.schedulers.guard import CurvatureGuard
from homotopy_cli.schedulers.readings import Readings
from homotopy_cli.training.environment import environment, without_home
from homotopy_cli.training.probing import SchedulerProbe, record

Status = Literal["finished", "diverged", "interrupted"]


class RunLogger:
    """Write run.h5 from a loop: a row for each step, the scheduler's probes and its events.

    Rates are read when the optimizer steps, so `step` may come before or after scheduler.step(),
    and need not come at every one. What it has written survives a kill of the process; `homotopy
    report run.h5` reads it meanwhile, too. Where torch.distributed runs only rank 0 writes.

    Args:
        path: The run.h5; missing folders are made.
        scheduler: A curvature scheduler, whose events are taken; or any torch LRScheduler.
        optimizer: Where there is no scheduler; a HomotopyAdam tells what one would.
        model: Names the layers; a curvature scheduler's own by default.
        settings: Of the run, as a recipe would have them: what a comparison shows to differ. The
            optimizer's and the scheduler's name, rate and options are there by themselves.
        name: The run's name; None: the file's folder.
        seed: Of the run, to tell repetitions from other settings.
        overwrite: Replace a log that is there.
        resume: Continue the log that is there; the number of steps already made, which the loop's
            own checkpoint knows.

    Raises:
        LogError: A log is there already, another process writes it, or the place is not writable.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        scheduler: LRScheduler | None = None,
        optimizer: Optimizer | None = None,
        model: nn.Module | None = None,
        settings: Mapping[str, Any] | None = None,
        name: str | None = None,
        seed: int = -1,
        overwrite: bool = False,
        resume: int | None = None,
    ) -> None:
        optimizer = optimizer if optimizer is not None else getattr(scheduler, "optimizer", None)
        if optimizer is None:
            raise TypeError("RunLogger needs scheduler= or optimizer=")
        self.path = Path(path)
        self.optimizer = unwrapped(optimizer)
        self.scheduler = scheduler if isinstance(scheduler, CurvatureScheduler) else None
        self._source = self.scheduler or _readings_of(self.optimizer)
        if self._source is not None and model is None:
            model = self._source._guard.probe.model
        self._first = resume or 0
        layers = {} if model is None else layers_of(model)
        self._n_layers = len(layers)
        self._reading: dict[str, float] = {}
        self._probe = self._source.last_probe if self._source is not None else None
        self._counter = StepCounter(self.optimizer)
        self._counter.on_step = self._stepped
        self._logged = self._first - 1
        self._loss = 0.0  # of the last row
        self._began = self._last = time.perf_counter()
        self._writer: RunWriter | None = None
        if dist.is_available() and dist.is_initialized() and dist.get_rank() != 0:
            return
        made = {"optimizer": _options(self.optimizer)}
        if scheduler is not None:
            made["scheduler"] = {"name": type(scheduler).__name__}
        info = self._info(layers, made | dict(settings or {}), name=name, seed=seed)
        try:
            if resume is None:
                self._writer = RunWriter.create(path, info, overwrite=overwrite)
            else:
                self._writer = RunWriter.resume(path, step=resume, info=info)
        except LogError as error:
            hint = "overwrite=True replaces a log, resume=N continues it after N steps"
            raise LogError(error.message, hint=hint) from error

    def step(
        self,
        loss: float | Tensor,
        *,
        grad_norm: float | Tensor | None = None,
        **columns: float | Tensor,
    ) -> None:
        """The row of the optimizer step that was just taken; none where a GradScaler skipped it.

        Args:
            loss: Of its batch.
            grad_norm: ‖g‖ before clipping.
            columns: Others of the per-step table (runlog/schema.py): clip_coef, update_norm, ...

        Raises:
            ValueError: No such column.
        """
        self._counter.settle()
        step = self.n_steps - 1
        if step <= self._logged:
            return
        now = time.perf_counter()
        given = {"loss": loss, "grad_norm": grad_norm, **columns}
        values = self._reading | {k: as_number(v) for k, v in given.items() if v is not None}
        values |= {"wall_time": now - self._began, "step_seconds": now - self._last}
        self._last, self._logged, self._loss = now, step, values["loss"]
        if self._writer is not None:
            self._take_events()
            self._writer.append_step(StepRecord(step, values))

    def evaluate(self, loss: float | Tensor, *, metric: float | Tensor | None = None) -> None:
        """The loss on held-out data, and a metric such as accuracy, after the steps so far."""
        self._counter.settle()
        values = {"eval_loss": as_number(loss)}
        if metric is not None:
            values["eval_metric"] = as_number(metric)
        if self._writer is not None:
            self._writer.append_eval(EvalRecord(self.n_steps, values))

    def event(self, code: str, message: str, *, level: EventLevel = "info") -> None:
        """Something that a reader of the log must know; `code` is in UPPER_CASE."""
        self._counter.settle()
        if self._writer is not None:
            self._writer.append_event(EventRecord(self.n_steps, level, code, message))

    def close(self, status: Status | None = None) -> None:
        """Finish the file. None: "diverged" where the last loss is no number, else "finished"."""
        self._counter.on_step = None
        if status is None:
            status = "finished" if math.isfinite(self._loss) else "diverged"
        if self._writer is not None:
            self._take_events()
            self._writer.close(status)
        self._writer = None

    @property
    def n_steps(self) -> int:
        """Optimizer steps so far, those before a resume included."""
        return self._first + self._counter.n

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(None if error is None else "interrupted")

    def _stepped(self) -> None:
        """The optimizer has stepped: the largest rate it used, and a probe that came before it."""
        lr = max(rates(self.optimizer))
        scheduler = self._source
        if isinstance(scheduler, _AdamReadings):
            lr *= scheduler.factor
        self._reading = {"lr": lr}
        if scheduler is None:
            return
        self._reading |= SchedulerProbe(scheduler).reading(lr)
        found = scheduler.last_probe
        if found is not self._probe and self._writer is not None:
            layers = len(scheduler.layer_names) == self._n_layers
            kept = {k: v for k, v in found.items() if layers or not k.startswith("layer_")}
            self._writer.append_probe(record(self.n_steps - 1, kept, {}))
        self._probe = found

    def _take_events(self) -> None:
        """The scheduler's events; left unheard, so that it still warns of failing probes."""
        if self._source is not None and self._writer is not None:
            pending = self._source.events
            for event in pending[:]:
                self._writer.append_event(event)
            pending.clear()

    def _info(
        self,
        layers: Mapping[str, tuple[int, str]],
        settings: Mapping[str, Any],
        *,
        name: str | None,
        seed: int,
    ) -> RunInfo:
        created = datetime.now(UTC)
        owned = [p for group in self.optimizer.param_groups for p in group["params"]]
        name = name or self.path.resolve().parent.name or self.path.stem
        return RunInfo(
            run_id=f"{name}-{created:%Y%m%d-%H%M%S}-{os.urandom(3).hex()}",
            layers=tuple(layers),
            layer_numel=tuple(n for n, _ in layers.values()),
            layer_kind=tuple(kind for _, kind in layers.values()),
            recipe_source="",
            recipe_resolved=dict(settings),
            environment=environment(owned[0].device if owned else "cpu"),
            argv=without_home(sys.argv),
            seed=seed,
            n_params=sum(p.numel() for p in owned if p.requires_grad),
            created_utc=created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        )


class _AdamReadings(Readings):
    """What HomotopyAdam knows, as a scheduler would tell it.

    It gives the planned rates back before anyone can see what its step used.
    """

    enabled = True

    def __init__(self, optimizer: Optimizer, guard: CurvatureGuard) -> None:
        self._optimizer, self._guard = optimizer, guard

    @property
    def schedule_lr(self) -> float:
        """The largest group's planned rate."""
        return max(rates(self._optimizer), default=0.0)

    @property
    def factor(self) -> float:
        """Of the last step, until the next one begins: what the ceiling has said is kept."""
        return self._guard.ceiling.factor(self.schedule_lr)


def _readings_of(optimizer: Optimizer) -> _AdamReadings | None:
    guard = optimizer.guard if isinstance(optimizer, HomotopyAdam) else None
    return None if guard is None else _AdamReadings(optimizer, guard)


def layers_of(model: nn.Module) -> dict[str, tuple[int, str]]:
    """Modules that own trainable parameters, as in Partition.by_module: (parameters, class)."""
    live = unwrap(model)
    kinds = {clean_name(name): type(module).__name__ for name, module in live.named_modules()}
    found: dict[str, tuple[int, str]] = {}
    for name, parameter in live.named_parameters():
        if parameter.requires_grad:
            owner = clean_name(name).rpartition(".")[0]
            n, kind = found.get(owner or ROOT, (0, kinds.get(owner, "function")))
            found[owner or ROOT] = (n + parameter.numel(), kind)
    return found


def _options(optimizer: Optimizer) -> dict[str, Any]:
    """Name, rate and the options of the first group that are plain values."""
    group = {k: v for k, v in optimizer.param_groups[0].items() if k not in ("params", "lr")}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in group.items() if _is_plain(v)}
    plain.pop("initial_lr", None)
    rate = float(optimizer.param_groups[0].get("initial_lr", rates(optimizer)[0]))
    return {"name": type(optimizer).__name__.lower(), "lr": rate} | plain


def _is_plain(value: Any) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return all(isinstance(part, bool | int | float | str) for part in parts)
