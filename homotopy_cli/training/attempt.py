"""One attempt at a run: its steps, evaluations, checkpoints and rows, to whichever end."""

import time
from typing import Any

from homotopy_cli.errors import CheckpointError, TrainingDiverged
from homotopy_cli.records import EvalRecord, EventRecord, StepRecord
from homotopy_cli.runlog.writer import RunWriter
from homotopy_cli.training.averaging import weights_to_use
from homotopy_cli.training.build import Run
from homotopy_cli.training.distributed import describe
from homotopy_cli.training.environment import changed, environment
from homotopy_cli.training.evaluate import METRIC_NAMES, evaluate
from homotopy_cli.training.forward import AMP_WORDS
from homotopy_cli.training.keeping import Keeper, Standing
from homotopy_cli.training.observer import Observer, StepView
from homotopy_cli.training.outputs import RunPaths
from homotopy_cli.training.resume import StartPoint
from homotopy_cli.training.signals import StopRequest
from homotopy_cli.training.snapshot import spectrum_due, take_snapshot
from homotopy_cli.training.spoilt import spoilt_step
from homotopy_cli.training.step import optimizer_step
from homotopy_cli.training.stopping import Stopping
from homotopy_cli.training.summary import TrainResult

SHOWN = ("lambda_max", "kappa", "edge_ratio")  # of the newest probe, in the progress line
COPIES = 3.0  # seconds in which torchrun repeats a Ctrl-C to its processes


class Attempt:
    """One attempt at a run: everything that lives between the first row and the last."""

    def __init__(
        self,
        run: Run,
        paths: RunPaths,
        writer: RunWriter,
        observer: Observer,
        start: StartPoint,
        loaded: Any,
        stopping: Stopping,
    ) -> None:
        self.run, self.paths, self.writer, self.observer = run, paths, writer, observer
        self.loaded, self.recipe, self.start = loaded, loaded.recipe, start
        self.standing = Standing(stopping)
        self.environment = environment(run.device) | run.ranks.facts()
        self.done = start.step
        self.elapsed_before = start.wall_time
        self.probe_seconds = self.in_probes = self.in_steps = 0.0
        self.warnings: list[str] = []
        self.spoilt = ""  # what was wrong with the batch at which the run diverged
        self.keeper = Keeper(
            run,
            paths,
            self.standing,
            loaded,
            self.environment,
            warn=lambda code, words: self._event("warning", code, words),
        )
        if start.checkpoint is not None:
            self.keeper.restore(start.checkpoint)

    def go(self) -> TrainResult:
        """Run to the end; always leaves the log closed."""
        total = self.recipe.steps
        with StopRequest(copies=COPIES * (self.run.ranks.size > 1)) as stop:
            self.observer.start(total, self.done)
            self.began = time.perf_counter()
            self._announce()
            if self.start.checkpoint is None:
                if self.recipe.eval_every:
                    self._evaluate()
                self.keeper.save(self.done)
            elif self.done == 0 and self.recipe.eval_every and self.run.measured:
                self._snapshot()  # the first attempt's row at step 0 gave way to this attempt's
            fault = early = late = ""
            ranks = self.run.ranks
            while self.done < total and not ranks.stopping(stop) and not (fault or early or late):
                fault = self._step(self.done)
                if not fault:
                    self._after_step(total)
                    early, late = self.standing.stopping.early, self._late()
            ended = early or self.done >= total
            status = "diverged" if fault else "finished" if ended else "interrupted"
            early = early if status == "finished" else ""
            late = late if status == "interrupted" else ""
            if early:
                self._event("info", "EARLY_STOP", early)
            if late:
                self._event("info", "TIME_LIMIT", f"{late} after step {self.done - 1}")
            elif status == "interrupted":
                self._event("warning", "INTERRUPTED", f"ended by {stop.name}")
            if (late or status == "finished") and self.run.eval_batches:
                self._evaluate_once()
            seconds = time.perf_counter() - self.began  # after the last look, which counts too
            failed = None
            if not fault:
                failed = self.keeper.save(self.done)
            self.observer.stop()
            self.writer.close(status)
        why = {"fault": fault, "early": early, "late": late, "unlogged": self.writer.unclosed}
        why["unsaved"] = "" if failed is None else failed.message
        return self._result(status, seconds, stop, **why)

    def _step(self, step: int) -> str:
        """One optimizer step and its row; returns why training must stop, or ""."""
        outcome = optimizer_step(self.run, step)
        values = outcome.values
        values["wall_time"] = self.elapsed_before + time.perf_counter() - self.began
        if outcome.probe is not None:
            self.writer.append_probe(outcome.probe)
            seen = outcome.probe.values
            self.standing.curvature = {name: seen[name] for name in SHOWN if name in seen}
            self.standing.tally.probe(step, seen, clip_coef=values.get("clip_coef", 1.0))
        for event in self.run.probe.drain_events():
            self.writer.append_event(event)
        self.writer.append_step(StepRecord(step, values))
        if outcome.fault:
            words = f"{outcome.fault}, at lr {values['lr']:.4g}"
            self.spoilt = spoilt_step(self.run, step)
            if self.spoilt:
                words = f"{outcome.fault}: the batch of step {step} holds {self.spoilt}"
            self._event("error", "DIVERGED", words)
            return f"step {step}: {words}"
        self.probe_seconds += values["probe_seconds_step"]
        self.in_probes += values["probe_seconds_step"]
        self.in_steps += values["step_seconds"]
        self.standing.tally.row(step, values)
        for code, words in self.standing.watch.row(values):
            self.standing.tally.spikes += code == "SPIKE"
            self._event("info", code, words)
        self.done = step + 1
        seconds = time.perf_counter() - self.began
        made = self.done - self.start.step
        self.observer.step(
            StepView(
                step=step,
                total=self.recipe.steps,
                loss=values["loss"],
                lr=values["lr"],
                lambda_max=self.standing.curvature.get("lambda_max"),
                kappa=self.standing.curvature.get("kappa"),
                edge_ratio=self.standing.curvature.get("edge_ratio"),
                probe_share=self.probe_seconds / seconds,
                seconds=seconds,
                eta=seconds / made * (self.recipe.steps - self.done),
            )
        )
        return ""

    def _late(self) -> str:
        """Why the clock ends the run for now; rank 0's clock for all ranks."""
        late = self.standing.stopping.late(self.began)
        if not self.standing.stopping.max_seconds or not self.run.ranks.main_decides(bool(late)):
            return ""
        return late or "max_seconds reached"

    def _after_step(self, total: int) -> None:
        every = self.recipe.eval_every
        if every and self.done % every == 0 and self.done < total:
            self._evaluate()
        if self.keeper.due(self.done, self.began) and self.done < total:
            self.keeper.save(self.done)

    def _evaluate(self) -> None:
        self.run.ranks.sync_buffers(self.run.model)
        with weights_to_use(self.run.optimizer, self.run.params):
            values = evaluate(self.run.model, self.run.loss, self.run.eval_batches, self.run.ranks)
        record = EvalRecord(self.done, values)
        self.standing.evaluations.setdefault("first", values["eval_loss"])
        self.standing.evaluations["step"] = self.done
        self.standing.evaluations |= values
        self.writer.append_eval(record)
        self.observer.evaluation(record)
        every = self.recipe.eval_every
        planned = bool(every) and self.done % every == 0
        better = self.standing.stopping.evaluated(self.done, values["eval_loss"], counts=planned)
        if better and self.recipe.keep_best:
            with weights_to_use(self.run.optimizer, self.run.params):  # those just evaluated
                self.keeper.save(self.done, self.paths.best)
        if self.run.measured:
            self._snapshot()

    def _snapshot(self) -> None:
        """Spectrum and components on held-out data, beside the evaluation."""
        began = time.perf_counter()
        found, why = take_snapshot(
            self.run.model,
            self.run.loss,
            self.run.ranks.part(self.run.eval_batches[0])[0],
            step=max(0, self.done - 1),  # the last step made, so that a resume keeps the row
            spectrum=spectrum_due(self.done, self.recipe.steps, self.recipe.eval_every),
            seed=self.recipe.seed,
            layers=[block.params for block in self.run.layers],
            reducer=self.run.ranks.reducer,
        )
        self.probe_seconds += time.perf_counter() - began
        if found is not None:
            self.writer.append_probe(found)
        elif why:
            self._event("info", "SNAPSHOT_FAILED", f"no spectrum or components: {why}")

    def _evaluate_once(self) -> None:
        if self.standing.evaluations.get("step") != self.done:
            self._evaluate()

    def _announce(self) -> None:
        """Say in the log what differs from the attempt before."""
        if self.start.missing_rows:
            words = f"{self.start.missing_rows} rows before step {self.done} are not in the log"
            self._event("warning", "LOG_GAP", words)
        if self.recipe.amp and self.start.checkpoint is None:
            self._event("info", "AMP", AMP_WORDS)
        for change in self.start.changes:
            self._event("info", "RECIPE_CHANGED", change)
        spread = describe(self.run.ranks, self.run.model, self.recipe)
        if spread:
            self._event("info", "PARALLEL", spread)
        if self.start.checkpoint is not None:
            for change in changed(self.start.checkpoint["environment"], self.environment):
                self._event("info", "ENVIRONMENT_CHANGED", change)

    def _event(self, level: Any, code: str, message: str) -> None:
        event = EventRecord(self.done, level, code, message)
        self.writer.append_event(event)
        if level == "warning":
            self.warnings.append(message)

    def _result(self, status: str, seconds: float, stop: StopRequest, **why: str) -> TrainResult:
        codes = {"finished": 0, "diverged": TrainingDiverged.exit_code}
        codes["interrupted"] = stop.exit_code
        incomplete = why["unsaved"] or (self.writer.lost_rows and status != "diverged")
        return TrainResult(
            status=status,
            step=self.done,
            total=self.recipe.steps,
            paths=self.paths,
            tally=self.standing.tally,
            final_loss=self.standing.tally.last_loss,
            n_params=self.run.n_params,
            seconds=seconds,
            probe_seconds=self.probe_seconds,
            probe_share=self.in_probes / self.in_steps if self.in_steps else 0.0,
            eval_loss=self.standing.evaluations.get("eval_loss"),
            eval_metric=self.standing.evaluations.get("eval_metric"),
            eval_metric_name=METRIC_NAMES.get(self.run.loss.name, ""),
            first_eval_loss=self.standing.evaluations.get("first"),
            baseline=dict(self.run.baseline),
            scheduler=self.recipe.scheduler.name,
            **why,
            best_eval=self.standing.stopping.best if self.recipe.keep_best else None,
            signal=stop.name if status == "interrupted" else "",
            lost_rows=self.writer.lost_rows,
            spoilt=bool(self.spoilt),
            exit_code=CheckpointError.exit_code if incomplete else codes[status],
            warnings=tuple(self.warnings),
        )
